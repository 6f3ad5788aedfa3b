"""How pages speak of rows of the ledger: periods to choose from, colours of endings, times."""

from __future__ import annotations

from datetime import timedelta

PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}
PERIOD_LABELS = [("hour", "Last hour"), ("day", "Last 24 hours"), ("week", "Last 7 days"), ("month", "Last 30 days")]
STATUS_TONES = {"completed": "good", "cancelled": "neutral", "failed": "bad", "interrupted": "warning"}


def milliseconds(microseconds: int | None) -> str:
    return "–" if microseconds is None else f"{microseconds / 1000:,.0f} ms"

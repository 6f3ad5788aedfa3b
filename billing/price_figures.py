"""The figures of a price row by column, and how people read them."""

from __future__ import annotations

from billing.models import TOKEN_BUCKETS, Price
from billing.money import plain, usd, usd_per_million

Figures = dict[str, int | None]
"""By column of `Price`: pico-dollars per token, `request` per request."""

COLUMNS = (*TOKEN_BUCKETS, "request")


def figures_of(row: Price) -> Figures:
    """What a row says."""
    return {column: getattr(row, column) for column in COLUMNS}


def figure_text(column: str, figure: int) -> str:
    """Dollars: per million tokens, or per request."""
    return plain(usd(figure) if column == "request" else usd_per_million(figure))


def described(figures: Figures) -> str:
    """`input 0.15, cache_read 0.075, output 0.6`, in dollars per million tokens."""
    return ", ".join(
        f"{column} {figure_text(column, figure)}"
        for column in COLUMNS
        if (figure := figures.get(column)) is not None and (figure or column in {"input", "output"})
    )


def difference(old: Figures, new: Figures) -> str:
    """`output 0.6 → 0.5`: the columns that differ."""
    return ", ".join(
        f"{column} {_or_none(column, old.get(column))} → {_or_none(column, new.get(column))}"
        for column in COLUMNS
        if old.get(column) != new.get(column)
    )


def _or_none(column: str, figure: int | None) -> str:
    return "(none)" if figure is None else figure_text(column, figure)

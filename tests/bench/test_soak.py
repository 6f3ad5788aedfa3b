"""What a soak calls a problem, and that its look at a process sees what is there."""

from __future__ import annotations

import msgspec
import pytest

from bench.gateway_target import COST_PICO_USD
from bench.load import Outcome
from bench.soak import SPARE_DESCRIPTORS, Figures, Sample, report

NOTHING_OPEN = {"requests in flight": 0, "held by budgets": list[str]()}


def sample(*, rss_mb: float = 100.0, descriptors: int = 30, connections: int = 0) -> Sample:
    return Sample(at_s=0.0, rss_mb=rss_mb, descriptors=descriptors, upstream_connections=connections)


def outcome(*, sent: int = 100, errors: int = 0) -> Outcome:
    return Outcome(
        sent=sent,
        measured=sent,
        seconds=1.0,
        requests_per_s=100.0,
        latency_ms={},
        first_token_ms={},
        errors=errors,
        first_error="status 502" if errors else "",
        cpu_share=0.1,
    )


WELL = Figures(
    streams=10,
    before=sample(),
    outcome=outcome(),
    during=[sample(connections=10)] * 8,
    after=sample(),
    left=5,
    rows={"completed": 101, "cancelled": 4},
    cost_pico_usd=101 * COST_PICO_USD,
    open=NOTHING_OPEN,
)


def test_where_all_is_back_there_is_no_problem() -> None:
    assert WELL.problems == []
    assert "PROBLEM" not in report(WELL)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"outcome": outcome(errors=2)}, "2 errors, first: status 502"),
        ({"rows": {"completed": 99}, "cost_pico_usd": 99 * COST_PICO_USD}, "99 completed rows for 100 streams"),
        ({"rows": {"completed": 106}, "cost_pico_usd": 106 * COST_PICO_USD}, "106 completed rows for 100 streams"),
        ({"rows": {"completed": 100, "other": 1}, "cost_pico_usd": 100 * COST_PICO_USD}, "rows that should not be"),
        ({"cost_pico_usd": 1}, "completed rows cost 1"),
        ({"open": {**NOTHING_OPEN, "requests in flight": 1}}, "requests in flight: 1"),
        ({"open": {**NOTHING_OPEN, "held by budgets": ["0.001"]}}, "held by budgets"),
        ({"after": sample(connections=1)}, "1 connections to the provider outlived"),
        ({"after": sample(descriptors=31 + SPARE_DESCRIPTORS)}, "30 descriptors before, 39 after"),
        ({"during": [sample(rss_mb=100 + at) for at in range(40)]}, "memory grew from 114.5 to 134.5 MB"),
    ],
    ids=["errors", "lost", "invented", "failed", "cost", "in flight", "held", "connections", "descriptors", "memory"],
)
def test_whatever_is_left_is_one(changes: dict[str, object], problem: str) -> None:
    [found] = msgspec.structs.replace(WELL, **changes).problems

    assert problem in found
    assert found in report(msgspec.structs.replace(WELL, **changes))

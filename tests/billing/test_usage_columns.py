"""Rows by column say what the rows say, and add up to the same, whatever they have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.histogram import bucket
from billing.journal_files import to_json
from billing.rollups import INPUTS, OUTPUTS, column_sums, sums
from billing.usage_columns import by_column
from billing.usage_rows import COLUMNS, UnusableRecordError, all_decoded, decoded
from llmgateway.pipeline.protocols import Record
from tests.billing.records import NOON, closed

_HOUR = 3600
tokens = st.sampled_from([0, 0, 1, 2**40])
changes = st.fixed_dictionaries(
    {},
    optional={
        "started_at": st.sampled_from([NOON, NOON + 0.25, NOON - 1, NOON + _HOUR, NOON + 86_399.9]),
        "admitted_at": st.sampled_from([None, NOON, NOON + _HOUR - 0.001, NOON + _HOUR]),
        "key_id": st.sampled_from(["7", "8"]),
        "key_name": st.sampled_from(["alice-key", "renamed"]),
        "status": st.sampled_from(["completed", "failed"]),
        "model": st.sampled_from(["gpt-4o-mini", ""]),
        "mirror_of": st.sampled_from(["", "a", "b"]),
        "usage_source": st.sampled_from(["provider", "estimated"]),
        "usage_raw": st.sampled_from([None, {"a": 1}, {"a": "\\u0000\0"}]),
        "end_user": st.sampled_from(["", "back\\slash", "nul\0", "long" * 100]),
        "priced": st.booleans(),
        "counted": st.booleans(),
        "cost_pico_usd": st.integers(0, 2**62),
        "ttft_us": st.none() | st.integers(0, 10**9),
        **dict.fromkeys(("duration_us", "overhead_us"), st.integers(0, 10**9)),
        **dict.fromkeys((*INPUTS, *OUTPUTS), tokens),
    },
)
batches = st.lists(changes, min_size=1, max_size=30)


def _payloads(batch: list[Record]) -> list[bytes]:
    return [to_json(closed(f"r{number}", **changed)) for number, changed in enumerate(batch)]


@given(batches)
def test_each_row_stands_in_the_columns_as_it_was_decoded(batch: list[Record]) -> None:
    rows = [decoded(payload) for payload in _payloads(batch)]

    columns = by_column(all_decoded(_payloads(batch)))

    assert [msgspec.structs.asdict(row) for row in rows] == columns.records()
    assert columns.shared.keys() | columns.differing.keys() == set(COLUMNS)
    for name in COLUMNS:
        found = list(columns.column(name))
        assert found == [getattr(row, name) for row in rows]
        assert columns.how_many(name, found[0]) == found.count(found[0])
        assert name not in columns.differing or found.count(found[0]) < len(found), "what all say is said once"


@given(batches, st.data())
def test_picked_rows_keep_their_values(batch: list[Record], data: st.DataObject) -> None:
    columns = by_column(all_decoded(_payloads(batch)))
    places = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, unique=True))

    picked = columns.picked(places, ("output", "cost_pico_usd"))

    assert list(picked.column("output")) == [columns.at(place, "output") for place in places]
    assert picked.total("cost_pico_usd") == sum(columns.at(place, "cost_pico_usd") for place in places)


@given(batches, st.integers(1, 7))
def test_sums_are_those_of_each_row_by_itself(batch: list[Record], size: int) -> None:
    payloads = _payloads(batch)
    rows = [decoded(payload) for payload in payloads]
    parts = [by_column(all_decoded(payloads[start : start + size])) for start in range(0, len(payloads), size)]

    total = column_sums(parts)

    assert total == sums(rows)
    assert {key: _figures(one) for key, one in total.items()} == _one_by_one(rows)


def _figures(one: Any) -> dict[str, Any]:
    return {
        "requests": one.requests,
        "input": one.input_tokens,
        "output": one.output_tokens,
        "cache_read": one.cache_read_tokens,
        "reasoning": one.reasoning_tokens,
        "cost": one.cost_pico_usd,
        "estimated": one.estimated_requests,
        "unpriced": one.unpriced_requests,
        "counted": one.counted_requests,
        "ttft": one.ttft_histogram,
        "duration": one.duration_histogram,
        "overhead": one.overhead_histogram,
    }


def _one_by_one(rows: list[Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    numbers: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    histograms: dict[tuple[Any, ...], dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        moment = row.started_at if row.admitted_at is None else row.admitted_at
        who = (row.team_id, row.key_id, row.alias, row.provider, row.deployment, row.model, row.status)
        key = (int(moment // _HOUR) * _HOUR, *who, "mirror" if row.mirror_of else "")
        numbers[key] += Counter(
            requests=1, input=sum(getattr(row, name) for name in INPUTS), counted=int(row.counted),
            output=sum(getattr(row, name) for name in OUTPUTS), cache_read=row.cache_read, reasoning=row.reasoning,
            cost=row.cost_pico_usd, estimated=int(row.usage_source == "estimated"), unpriced=int(not row.priced),
        )  # fmt: skip
        for name in ("ttft", "duration", "overhead"):
            value = getattr(row, f"{name}_us")
            if value is not None:
                histograms[key][name][bucket(value)] += 1
    names = ("requests", "input", "output", "cache_read", "reasoning", "cost", "estimated", "unpriced", "counted")
    return {
        key: {name: found[name] for name in names}
        | {name: dict(histograms[key][name]) for name in ("ttft", "duration", "overhead")}
        for key, found in numbers.items()
    }


def test_rows_of_two_days_know_their_day() -> None:
    moments = [NOON, NOON + 86_400, NOON, NOON - 43_200, NOON - 43_200.5, NOON + 43_200]

    rows = all_decoded([to_json(closed(str(number), started_at=at)) for number, at in enumerate(moments)])

    assert [row.day.day for row in rows] == [14, 15, 14, 14, 13, 15]


@pytest.mark.parametrize("changed", [{"id": ""}, {"http_status": -1}, {"key_name": 5}, {"started_at": 1e300}])
def test_one_that_makes_no_row_is_named(changed: Record) -> None:
    payloads = [to_json(closed("a")), to_json(closed("b") | changed), to_json(closed("c"))]

    with pytest.raises(UnusableRecordError):
        all_decoded(payloads)


def test_no_rows_have_no_sums() -> None:
    assert column_sums([by_column([])]) == {}

"""Rows of every kind are in the table as they were told, whatever came beside them, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connections

from billing import usage_table
from billing.journal_files import to_json
from billing.models import UsageRecord
from billing.usage_columns import by_column
from billing.usage_rows import decoded
from billing.usage_table import insert
from llmgateway.pipeline.protocols import Record
from tests.billing.records import NOON, closed

ODD_TEXTS = (
    "",
    "100 %s of %d",
    "tab\tand\nnew\rline",
    "back\\slash \\N \\. \\t",
    "ünïcode 🦜",
    '"quoted"',
    "\\N",
    "null",
)
ODD_ROWS: list[Record] = [
    *({"end_user": text} for text in ODD_TEXTS),
    *({"usage_raw": {"said": text, "at": 2**53}} for text in ODD_TEXTS),
    {"usage_raw": None}, {"usage_raw": []}, {"units": {"images": 3}}, {"attempts": []}, {"ttft_us": None},
    {"ttft_us": 0}, {"price_id": None}, {"reported_cost_pico_usd": -1}, {"cost_pico_usd": 2**62}, {"stream": False},
    {"priced": False, "counted": False}, {"needs_review": True, "status": "interrupted"}, {"admitted_at": NOON - 61},
    {"admitted_at": None}, {"started_at": NOON + 0.000001}, {"started_at": NOON + 86_399.5, "admitted_at": NOON + 86_400},
]  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def using(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        request.getfixturevalue("db")
        return "default"
    alias: str = request.getfixturevalue("postgres")
    return alias


@pytest.fixture(autouse=True)
def _no_columns_are_known_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_table, "_differing", usage_table._Differing())


def _store(using: str, records: list[Record]) -> None:
    insert(connections[using], by_column(decoded(to_json(record)) for record in records))


def _told(record: Record) -> dict[str, Any]:
    started = record["started_at"]
    admitted = record.get("admitted_at")
    moments = {
        "started_at": datetime.fromtimestamp(started, UTC),
        "admitted_at": datetime.fromtimestamp(started if admitted is None else admitted, UTC),
        "day": datetime.fromtimestamp(started, UTC).date(),
    }
    return {**record, **moments}


def _found(using: str, record: Record) -> dict[str, Any]:
    row = UsageRecord.objects.using(using).get(pk=record["id"])
    return {name: getattr(row, name) for name in _told(record)}


def test_odd_values_stand_beside_ordinary_ones(using: str) -> None:
    records = [closed(f"odd-{number}", **changes) for number, changes in enumerate(ODD_ROWS)]
    _store(using, [*(closed(f"before-{number}") for number in range(40)), *records, closed("after")])

    assert UsageRecord.objects.using(using).count() == len(ODD_ROWS) + 41
    for record in [closed("before-39"), *records, closed("after")]:
        assert _found(using, record) == _told(record)


def test_odd_values_stand_alone(using: str) -> None:
    """Then every column says one thing."""
    for number, changes in enumerate(ODD_ROWS):
        record = closed(f"alone-{number}", **changes)
        _store(using, [record])
        assert _found(using, record) == _told(record)


@pytest.mark.parametrize("count", [1, 9, 10, 49, 50, 61, 119])
@pytest.mark.django_db
def test_however_many_rows_there_are_each_is_stored_once(count: int) -> None:
    _store("default", [closed(f"r{number}", output=number) for number in range(count)])

    rows = dict(UsageRecord.objects.values_list("pk", "output"))

    assert rows == {f"r{number}": number for number in range(count)}


@pytest.mark.django_db
def test_a_column_that_has_differed_makes_no_new_statement_when_it_does_not() -> None:
    _store("default", [closed("a", alias="one"), closed("b", alias="two")])
    usage_table._statement.cache_clear()

    _store("default", [closed("c"), closed("d")])
    _store("default", [closed("e", alias="one"), closed("f", alias="other")])

    assert usage_table._statement.cache_info().currsize == 1
    assert dict(UsageRecord.objects.values_list("pk", "alias"))["f"] == "other"

"""Statements about many rows come in few sizes, and still say all there is to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing import usage_table
from billing.journal_files import to_json
from billing.models import UsageRollup
from billing.rollups import add_rollups, column_sums
from billing.statement_sizes import STEPS, in_steps, padded
from billing.usage_columns import by_column
from billing.usage_rows import decoded
from billing.usage_table import insert
from tests.billing.records import closed

counts = st.integers(1, 700)


@given(st.integers(0, 700))
def test_steps_hold_every_item_once_and_in_order(count: int) -> None:
    steps = list(in_steps(range(count)))

    assert [item for step in steps for item in step] == list(range(count))
    assert {len(step) for step in steps} <= set(STEPS)


@given(counts)
def test_what_is_padded_has_few_lengths_and_nothing_new(count: int) -> None:
    items = padded(range(count))

    assert items[:count] == list(range(count))
    assert set(items[count:]) <= {count - 1}
    assert len(items) < 2 * count
    assert len(items).bit_count() == 1


@pytest.mark.django_db
def test_rows_and_rollups_of_any_number_are_few_statements() -> None:
    """SQLite would keep each, prepared, and half a megabyte with it."""
    rollup_texts: set[str] = set()

    def note(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        rollup_texts.add(sql)
        return execute(sql, *rest)

    usage_table._statement.cache_clear()
    for count in range(1, 41):
        rows = by_column(decoded(to_json(closed(f"{count}-{n}", key_id=f"{n:02}"))) for n in range(count))
        insert(connection, rows)
        with connection.execute_wrapper(note):
            add_rollups(connection, column_sums([rows]))

    shapes = 2  # A single row differs in nothing from itself.
    assert usage_table._statement.cache_info().currsize <= shapes * len(STEPS)
    assert len([sql for sql in rollup_texts if "billing_usagerollup" in sql]) <= 2 * 7 + 1
    requests = dict(UsageRollup.objects.values_list("key_id", "requests"))
    assert requests == {f"{n:02}": 40 - n for n in range(40)}

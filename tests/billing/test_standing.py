"""What counters start from and are compared with, to the unit."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections

from billing.journal import Journal
from billing.journal_files import Position
from billing.ledger import JournalDrain
from billing.models import UsageRecord
from billing.standing import Tally, Used, used, used_by, used_up_to
from tests.billing.records import NOON, closed, opened

KEY_7, TEAM_3, ALL = Tally(NOON, "key_id", "7"), Tally(NOON, "team_id", "3"), Tally(NOON)
DEAREST = 2**63 - 1
"""Pico-dollars: $9 million, the most that a column holds."""
HALF_PAST = NOON - 1800
"""Where a day begins in a zone that is half an hour off."""


def finish(journal: Journal, number: int, cost: int = 0, **changes: Any) -> None:
    request_id = f"req_{number}"
    journal.open(opened(request_id))
    journal.close(closed(request_id, cost_pico_usd=cost, **changes))


def drain(journal: Journal, using: str = "default") -> None:
    JournalDrain(journal.folder, journal=journal, using=using).drain()


def costs(found: list[dict[str, Used]]) -> list[int]:
    return [each[""].cost_pico_usd for each in found]


@pytest.mark.django_db(transaction=True)
def test_what_is_in_the_database_and_what_is_still_in_the_journal_both_count_once(journal: Journal) -> None:
    finish(journal, 1, 100)
    drain(journal)
    finish(journal, 2, 20)
    finish(journal, 3, 3, key_id="2")
    finish(journal, 4, 1000, started_at=NOON - 1)

    assert costs(used_up_to(journal, [KEY_7, TEAM_3, ALL], journal.position)) == [120, 123, 123]


@pytest.mark.django_db(transaction=True)
def test_nothing_after_the_mark_counts(journal: Journal) -> None:
    finish(journal, 1, 100)

    def mark() -> Position:
        position = journal.position()
        finish(journal, 2, 20)
        return position

    assert costs(used_up_to(journal, [KEY_7], mark)) == [100]


@pytest.mark.django_db(transaction=True)
def test_after_an_error_of_the_drain_the_database_says_how_far_it_is(journal: Journal) -> None:
    finish(journal, 1, 100)
    drain(journal)
    journal.drained = None
    finish(journal, 2, 20)

    assert costs(used_up_to(journal, [KEY_7], journal.position)) == [120]


@pytest.mark.django_db(transaction=True)
def test_a_total_outlives_the_rows_it_was_made_of(journal: Journal) -> None:
    finish(journal, 1, 100)
    drain(journal)
    UsageRecord.objects.all().delete()

    assert costs(used([Tally(0.0), Tally(0.0, "key_id", "7")])) == [100, 100]


def spread(journal: Journal) -> list[Tally]:
    """Requests around a window that begins in the middle of an hour, and what to ask of them."""
    finish(journal, 1, 1, started_at=HALF_PAST - 0.5)
    finish(journal, 2, 10, started_at=HALF_PAST)
    finish(journal, 3, 100, started_at=HALF_PAST - 0.5, admitted_at=HALF_PAST + 0.25)
    finish(journal, 4, 1000, started_at=NOON + 7200)
    finish(journal, 5, 10_000, started_at=NOON - 0.5, admitted_at=NOON)
    return [Tally(HALF_PAST), Tally(HALF_PAST, "team_id", "3"), Tally(HALF_PAST, each="client_ip")]


@pytest.mark.django_db(transaction=True)
def test_a_window_that_begins_within_an_hour_counts_to_the_unit(journal: Journal) -> None:
    tallies = spread(journal)
    beyond = costs(used_up_to(journal, tallies[:2], journal.position))
    drain(journal)

    assert costs(used(tallies[:2])) == beyond == [11_110, 11_110]


@pytest.mark.postgres
def test_a_window_that_begins_within_an_hour_counts_to_the_unit_on_postgresql(journal: Journal, postgres: str) -> None:
    tallies = spread(journal)
    drain(journal, postgres)

    assert costs(used(tallies[:2], using=postgres)) == [11_110, 11_110]


@pytest.mark.django_db(transaction=True)
def test_each_subject_counts_for_itself_and_requests_without_one_do_not(journal: Journal) -> None:
    finish(journal, 1, 1, client_ip="192.0.2.1", end_user="ann")
    finish(journal, 2, 20, client_ip="192.0.2.2", alias="other")
    drain(journal)
    finish(journal, 3, 300, client_ip="192.0.2.1", end_user="ann")
    tallies = [Tally(0.0, "key_id", "7", each=each) for each in ("client_ip", "end_user", "alias")]

    found = used_up_to(journal, tallies, journal.position)

    assert [{name: one.cost_pico_usd for name, one in each.items()} for each in found] == [
        {"192.0.2.1": 301, "192.0.2.2": 20},
        {"ann": 301},
        {"gpt-4o-mini": 301, "other": 20},
    ]


@pytest.mark.django_db(transaction=True)
def test_requests_for_some_models_can_be_told_from_the_others(journal: Journal) -> None:
    finish(journal, 1, 1)
    finish(journal, 2, 20, alias="other")
    drain(journal)
    finish(journal, 3, 300, alias="other")
    tallies = [Tally(NOON, alias="other"), Tally(NOON, without=frozenset({"other"}))]

    assert costs(used_up_to(journal, tallies, journal.position)) == [320, 1]


@pytest.mark.django_db(transaction=True)
def test_a_request_that_was_given_back_does_not_count_but_what_it_cost_does(journal: Journal) -> None:
    finish(journal, 1)
    finish(journal, 2, 5, counted=False, input=0, cache_read=0, output=0, reasoning=0)
    beyond = used_up_to(journal, [ALL], journal.position)
    drain(journal)

    assert used([ALL]) == beyond == [{"": Used(1, 100, 25, 5)}]
    assert [beyond[0][""].amount(metric) for metric in ("requests", "tokens", "input_tokens", "output_tokens")] == [
        1, 125, 100, 25,
    ]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_strict_budgets_are_charged_what_nobody_has_reviewed(journal: Journal) -> None:
    finish(journal, 1, 5, needs_review=True, reserved_pico_usd=40)
    finish(journal, 2, 5, reserved_pico_usd=300)
    drain(journal)

    assert costs(used([Tally(NOON, "key_id", "7", reserved=True), KEY_7])) == [50, 10]


def go_through(journal: Journal) -> list[Tally]:
    """Requests that passed through aliases, and tallies of these aliases: 1011 through `pool`, 1001 through `cheap`."""
    finish(journal, 1, 1, via="cheap pool", client_ip="192.0.2.1")
    finish(journal, 2, 10, alias="pool", client_ip="192.0.2.1")
    finish(journal, 3, 100, client_ip="192.0.2.1")
    finish(journal, 4, 1000, via="cheap pool cheap", client_ip="192.0.2.2", key_id="8", started_at=NOON + 7200)
    finish(journal, 5, 20_000, via="pool", started_at=NOON - 1)
    finish(journal, 6, 0, via="pool pooled", needs_review=True, reserved_pico_usd=50_000, counted=False)
    return [
        Tally(NOON, "alias", "pool"),
        Tally(NOON, "alias", "cheap"),
        Tally(NOON, "alias", "poo"),
        Tally(NOON, "alias", "gpt-4o-mini"),
        Tally(NOON, "key_id", "7", alias="pool"),
        Tally(NOON, "key_id", "7", without=frozenset({"pool"})),
        KEY_7,
        ALL,
        Tally(NOON, "alias", "pool", reserved=True),
    ]


THROUGH = [1011, 1001, 0, 1101, 11, 101, 111, 1111, 51_011]
"""What passed through an alias counts for its tallies, and nothing of it twice for anybody's."""


@pytest.mark.django_db(transaction=True)
def test_what_passes_through_an_alias_counts_for_it_too(journal: Journal) -> None:
    tallies = go_through(journal)
    beyond = costs(used_up_to(journal, tallies[:-1], journal.position))
    drain(journal)

    assert costs(used(tallies)) == THROUGH
    assert beyond == THROUGH[:-1]


@pytest.mark.postgres
def test_what_passes_through_an_alias_counts_for_it_too_on_postgresql(journal: Journal, postgres: str) -> None:
    tallies = go_through(journal)
    drain(journal, postgres)

    assert costs(used(tallies, using=postgres)) == THROUGH


@pytest.mark.django_db(transaction=True)
def test_each_address_and_each_model_on_the_way_counts_for_itself(journal: Journal) -> None:
    go_through(journal)
    drain(journal)
    tallies = [Tally(NOON, "alias", "pool", each="client_ip"), Tally(NOON, "key_id", "7", each="alias")]

    found = used(tallies)

    assert [{name: one.cost_pico_usd for name, one in each.items() if one.cost_pico_usd} for each in found] == [
        {"192.0.2.1": 11, "192.0.2.2": 1000},
        {"gpt-4o-mini": 101, "pool": 11, "cheap": 1},
    ]


def spend_the_most(journal: Journal) -> list[Tally]:
    """Requests that cost as much as a column holds, and tallies of three, two and none of them."""
    for number in range(3):
        finish(journal, number, DEAREST, started_at=NOON + 3600 * number)
    finish(journal, 3, 11, key_id="8", team_id=4, started_at=NOON + 60)
    return [
        Tally(0.0), Tally(NOON, "key_id", "7"), Tally(NOON + 0.000001, "key_id", "7"), Tally(NOON + 60, "team_id", "4"),
        Tally(NOON + 61, "team_id", "4"),
    ]  # fmt: skip


SPENT_THE_MOST = [3 * DEAREST + 11, 3 * DEAREST, 2 * DEAREST, 11, 0]


@pytest.mark.django_db(transaction=True)
def test_sums_are_exact_beyond_64_bits(journal: Journal) -> None:
    tallies = spend_the_most(journal)
    drain(journal)

    assert costs(used(tallies)) == SPENT_THE_MOST


@pytest.mark.postgres
def test_sums_are_exact_beyond_64_bits_on_postgresql(journal: Journal, postgres: str) -> None:
    tallies = spend_the_most(journal)
    drain(journal, postgres)

    assert costs(used(tallies, using=postgres)) == SPENT_THE_MOST


@pytest.mark.django_db
def test_more_owners_than_one_statement_takes_are_all_found() -> None:
    rows = [
        closed(f"req_{number}", key_id=str(number), counted=True, cost_pico_usd=number) for number in range(1, 7000)
    ]
    tallies = [Tally(NOON, "key_id", str(number)) for number in range(1, 7000)]

    empty = {**dict.fromkeys(("cache_write_5m", "cache_write_1h", "audio_input", "image_input", "audio_output"), 0)}
    assert costs(used_by([empty | row for row in rows], tallies)) == list(range(1, 7000))
    assert costs(used(tallies)) == costs(used(tallies[:1200] * 2))[:1] * 6999


def test_a_column_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="client_request_id"):
        used_by([], [Tally(0.0, "client_request_id", "x")])


@pytest.mark.django_db
def test_indexes_serve_windows_of_keys_and_teams() -> None:
    connection = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN QUERY PLAN SELECT key_id, reserved_pico_usd FROM billing_usagerecord WHERE needs_review"
        )
        assert "usage_for_review" in str(cursor.fetchall())
        cursor.execute(
            "EXPLAIN QUERY PLAN SELECT alias, via, SUM(cost_pico_usd) FROM billing_usagerecord "
            "WHERE NOT (via = '') AND started_at >= %s GROUP BY alias, via",
            ["2026-01-01 00:00:00"],
        )
        assert "usage_by_way" in str(cursor.fetchall())
    for column, table, index in (
        ("key_id", "billing_usagerollup", "rollup_by_key"),
        ("team_id", "billing_usagerollup", "rollup_by_team"),
        ("key_id", "billing_usagerecord", "usage_by_key"),
        ("team_id", "billing_usagerecord", "usage_by_team"),
    ):
        moment = "hour" if table.endswith("rollup") else "started_at"
        with connection.cursor() as cursor:
            cursor.execute(
                f"EXPLAIN QUERY PLAN SELECT {column}, SUM(cost_pico_usd) FROM {table} "
                f"WHERE {moment} >= %s AND {column} IN (%s, %s) GROUP BY {column}",
                ["2026-01-01 00:00:00", 1, 2],
            )
            assert index in str(cursor.fetchall())

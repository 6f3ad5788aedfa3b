"""What the drain puts into the outbox: one event per row and reporter, in the ledger's own transaction."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import Delivery, UsageRecord, UsageReporter
from billing.reporters import outbox
from billing.reporters.outbox import Outbox
from billing.reporters.payload import PATHS
from billing.usage_columns import by_column
from billing.usage_rows import completed, row_of
from llmgateway.api import openai
from llmgateway.models import ApiKey, Team
from llmgateway.services import key_create
from providers.models import Deployment, Provider
from tests.billing.records import closed, write
from tests.billing.reporters.receiver import make_reporter

pytestmark = pytest.mark.django_db(transaction=True)

URL = "http://127.0.0.1:9/usage"


def drain(journal: Journal, using: str = "default") -> None:
    JournalDrain(journal.folder, journal=journal, using=using).drain()


def payloads(reporter: UsageReporter) -> list[dict[str, Any]]:
    return [json.loads(delivery.payload) for delivery in reporter.deliveries.order_by("id")]


def test_an_event_tells_all_of_a_request_in_a_flat_object(journal: Journal) -> None:
    provider = Provider.objects.create(name="acme", adapter="openai_compatible", base_url="https://api.acme.example/v1")
    Deployment.objects.create(name="main", provider=provider, model="gpt-4o-mini")
    reporter = make_reporter(URL)
    write(journal, "a", end_user="ana")

    drain(journal)

    assert payloads(reporter) == [
        {
            "type": "usage",
            "request_id": "a",
            "user_id": "ana",
            "api_key": "7",
            "team": "red",
            "model": "gpt-4o-mini",
            "prompt_tokens": 100,
            "completion_tokens": 25,
            "total_tokens": 125,
            "estimated": False,
            "is_stream": True,
            "status": "completed",
            "endpoint": "/v1/chat/completions",
            "timestamp": "2026-03-14T12:00:00.000000Z",
            "backend_url": "https://api.acme.example/v1",
            "cost_usd": "0.00003",
            "cost_pico_usd": 30_000_000,
        }
    ]
    delivery = Delivery.objects.get()
    assert (delivery.event_id, delivery.type, delivery.state, delivery.attempts) == ("usage_a", "usage", "pending", 0)


def test_without_an_enabled_reporter_nothing_is_written(journal: Journal) -> None:
    make_reporter(URL, enabled=False)
    make_reporter(URL, name="alerts", reports_usage=False, reports_budgets=True)
    write(journal, "a")

    drain(journal)

    assert (UsageRecord.objects.count(), Delivery.objects.count()) == (1, 0)


def test_without_a_reporter_there_is_one_query_a_second() -> None:
    now = 100.0
    box = Outbox(monotonic=lambda: now)
    rows = [by_column([row_of(completed(closed("a")))])]

    with CaptureQueriesContext(
        connection,
    ) as queries:
        for _ in range(50):
            box.add(connection, rows)
        first = len(queries)
        now += 1.0
        box.add(connection, rows)

    assert (first, len(queries)) == (1, 2)


def test_a_reporter_that_is_switched_on_counts_within_a_second() -> None:
    now = 100.0
    box = Outbox(monotonic=lambda: now)
    box.add(connection, [by_column([row_of(completed(closed("a")))])])
    make_reporter(URL)

    now += 1.0
    box.add(connection, [by_column([row_of(completed(closed("b")))])])

    assert list(Delivery.objects.values_list("event_id", flat=True)) == ["usage_b"]


def test_a_crash_before_the_commit_leaves_neither_rows_nor_events(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_reporter(URL)
    write(journal, "a")

    def insert_and_die(*args: Any) -> None:
        real_insert(*args)
        raise OperationalError("the server is gone")

    real_insert = outbox.insert_events
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "insert_events", insert_and_die)
        with pytest.raises(OperationalError):
            drain(journal)
    assert (UsageRecord.objects.count(), Delivery.objects.count()) == (0, 0)

    drain(journal)

    assert (UsageRecord.objects.count(), Delivery.objects.count()) == (1, 1)


def test_a_reporter_deleted_meanwhile_costs_no_row(journal: Journal) -> None:
    reporter = make_reporter(URL)
    mover = JournalDrain(journal.folder, journal=journal)
    write(journal, "a")
    mover.drain()
    UsageReporter.objects.filter(pk=reporter.pk).delete()
    write(journal, "b")

    mover.drain()

    assert UsageRecord.objects.count() == 2


def test_each_reporter_gets_what_it_asked_for(journal: Journal) -> None:
    red = Team.objects.create(pk=3, name="red")
    key, _ = key_create(team=red, name="alice-key")
    make_reporter(URL, name="everything")
    failures = make_reporter(URL, name="failures", statuses=["failed", "interrupted"], includes_cost=False)
    blue = make_reporter(URL, name="blue")
    blue.teams.add(Team.objects.create(name="blue"))
    reds = make_reporter(URL, name="reds", api_key_field="name")
    reds.teams.add(red)
    masked = make_reporter(URL, name="masked", api_key_field="masked")
    write(journal, "a", key_id=str(key.pk))
    write(journal, "b", status="failed", key_id="file:ci")

    drain(journal)

    assert UsageReporter.objects.get(name="everything").deliveries.count() == 2
    assert [each["request_id"] for each in payloads(failures)] == ["b"]
    assert not [name for name in payloads(failures)[0] if name.startswith("cost")]
    assert payloads(blue) == []
    assert [each["api_key"] for each in payloads(reds)] == ["alice-key", "alice-key"]
    assert [each["api_key"] for each in payloads(masked)] == [ApiKey.objects.get().masked, "file:ci"]


def test_the_endpoint_is_the_path_that_was_called(journal: Journal) -> None:
    reporter = make_reporter(URL)
    write(journal, "a", path="/v1/messages")
    write(journal, "b")

    drain(journal)

    told = {each["request_id"]: each["endpoint"] for each in payloads(reporter)}
    assert told == {"a": "/v1/messages", "b": "/v1/chat/completions"}


def test_journals_that_do_not_note_the_path_mean_the_usual_one() -> None:
    routes = openai.routes()

    assert {operation: routes[path].dialect.operation.value for operation, path in PATHS.items()} == {
        operation: operation for operation in PATHS
    }


@pytest.mark.postgres
def test_events_arrive_with_their_rows_on_postgresql(postgres: str, journal: Journal) -> None:
    make_reporter(URL, using=postgres)
    write(journal, "a", end_user="nul \0 ünïcode")
    write(journal, "b")

    drain(journal, postgres)

    deliveries = Delivery.objects.using(postgres).order_by("id")
    assert [json.loads(each.payload)["user_id"] for each in deliveries] == ["nul  ünïcode", ""]
    assert all(each.next_attempt_at == each.created_at for each in deliveries)

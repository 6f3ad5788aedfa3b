"""Events reach a real receiver: signed, at least once, and once where nothing goes wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from auditlog.models import LogEntry
from django.utils import timezone

from billing.models import Delivery, ReporterState, UsageReporter
from billing.reporters import claims
from billing.reporters.courier import CONCURRENCY, Courier
from billing.reporters.outbox import add_event
from billing.reporters.schedule import MAX_ATTEMPTS, wait_s
from tests.billing.reporters.receiver import SECRET, Receiver, make_reporter

pytestmark = pytest.mark.django_db(transaction=True)


def fill(reporter: UsageReporter, *ids: str, using: str = "default") -> None:
    for name in ids:
        add_event("usage", f"usage_{name}", f'{{"request_id":"{name}"}}', [reporter], using=using)


def deliver(*, after_s: float = 0.0, using: str = "default") -> int:
    shift = timedelta(seconds=after_s)
    return Courier(now=lambda: datetime.now(UTC) + shift, using=using).run(for_s=20)


def states(reporter: UsageReporter, using: str = "default") -> dict[str, str]:
    rows = Delivery.objects.using(using).filter(reporter=reporter.pk).order_by("event_id")
    return {row.event_id.removeprefix("usage_"): row.state for row in rows}


def test_an_event_arrives_signed(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    reporter.set_headers({"Authorization": "Bearer of-the-receiver"})
    reporter.save()
    fill(reporter, "a")

    assert deliver() == 1

    [got] = receiver.received
    assert got.content == {"request_id": "a"}
    assert got.is_signed()
    assert not got.is_signed("whsec_" + "A" * 44)
    assert (got.headers["webhook-id"], got.headers["content-type"]) == ("usage_a", "application/json")
    assert (got.headers["host"], got.headers["authorization"]) == (
        f"127.0.0.1:{receiver.port}", "Bearer of-the-receiver",
    )  # fmt: skip
    assert got.headers["user-agent"].startswith("llmgateway/")
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.claim, delivery.last_error) == ("delivered", 1, "", "")
    assert delivery.settled_at is not None


def test_what_was_delivered_is_not_sent_again(receiver: Receiver) -> None:
    fill(make_reporter(receiver.url), "a")
    deliver()

    assert deliver(after_s=86_400) == 0

    assert receiver.request_ids == ["a"]


def test_a_receiver_that_was_down_gets_everything_once_it_is_back(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    receiver.stop()
    ids = [f"r{number:03}" for number in range(100)]
    fill(reporter, *ids)
    for minutes in range(0, 60, 6):
        deliver(after_s=60 * minutes)
    assert set(states(reporter).values()) == {"pending"}
    assert "Not connected" in ReporterState.objects.get().last_error

    receiver.start()
    fill(reporter, "new")
    # The first success wakes all that waited, however long their own waits have become.
    deliver(after_s=60 * 66)

    assert sorted(receiver.request_ids) == ["new", *ids]
    assert set(states(reporter).values()) == {"delivered"}
    state = ReporterState.objects.get()
    assert (state.failures, state.paused_until, state.last_error, state.delivered) == (0, None, "", 101)


def test_a_receiver_that_is_down_is_asked_with_a_few_events_only(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    receiver.status = 503
    fill(reporter, *(f"r{number}" for number in range(60)))

    deliver()
    deliver()

    assert len(receiver.received) <= CONCURRENCY
    assert Delivery.objects.filter(attempts=0, claim="").count() >= 60 - CONCURRENCY
    assert ReporterState.objects.get().failures == 1


def test_a_receiver_that_is_down_keeps_nobody_else_waiting(receiver: Receiver) -> None:
    slow = Receiver(delay_s=3.0)
    slow.start()
    fill(make_reporter(slow.url, name="slow"), *(f"s{number}" for number in range(CONCURRENCY + 1)))
    fill(make_reporter(receiver.url), "a", "b")
    courier = threading.Thread(target=lambda: Courier().run(for_s=1))
    courier.start()

    arrived = wait_for(lambda: len(receiver.received) == 2, timeout_s=2.5)

    courier.join(15)
    slow.stop()
    assert arrived


def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    waited = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return True
        waited.wait(0.02)
    return condition()


def test_an_event_is_given_up_after_three_days_and_can_be_replayed(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    receiver.status = 400
    fill(reporter, "a")
    start, moment = timezone.now(), timezone.now()

    while Delivery.objects.get().state == Delivery.State.PENDING:
        moment = max(moment, Delivery.objects.get().next_attempt_at) + timedelta(seconds=1)
        deliver(after_s=(moment - timezone.now()).total_seconds())

    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.last_error) == ("dead", MAX_ATTEMPTS, "HTTP 400")
    assert len(receiver.received) == MAX_ATTEMPTS
    assert timedelta(days=2) < moment - start < timedelta(days=4)
    assert {each.headers["webhook-id"] for each in receiver.received} == {"usage_a"}

    receiver.status = 200
    assert claims.replay(Delivery.objects.filter(state="dead"), timezone.now()) == 1
    deliver()

    assert states(reporter) == {"a": "delivered"}


def test_waits_grow_from_seconds_to_hours() -> None:
    waits = [wait_s(attempt) for attempt in range(1, MAX_ATTEMPTS)]

    assert 4 <= waits[0] <= 6
    assert 8 * 3600 * 0.8 <= waits[-1] <= 8 * 3600 * 1.2
    assert 2.4 * 86_400 < sum(waits) < 3.6 * 86_400
    assert len({wait_s(3) for _ in range(10)}) > 1


def test_a_receiver_that_is_gone_switches_its_reporter_off(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    receiver.status = 410
    fill(reporter, "a", "b")

    deliver()

    reporter.refresh_from_db()
    assert not reporter.enabled
    assert states(reporter) == {"a": "pending", "b": "pending"}
    entry = LogEntry.objects.get_for_object(reporter).first()
    assert entry is not None
    assert "410" in entry.additional_data["source"]
    asked = len(receiver.received)
    deliver(after_s=3600)
    assert len(receiver.received) == asked


def test_retry_after_is_honoured(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    receiver.status, receiver.headers = 429, {"Retry-After": "90"}
    fill(reporter, "a")
    deliver()
    receiver.status, receiver.headers = 200, {}
    fill(reporter, "b")

    assert deliver(after_s=85) == 0
    assert deliver(after_s=95) == 2


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    other = Receiver()
    other.start()
    reporter = make_reporter(receiver.url)
    receiver.status, receiver.headers = 307, {"Location": other.url}
    fill(reporter, "a")

    deliver()

    other.stop()
    assert other.received == []
    assert "redirects are not followed" in Delivery.objects.get().last_error


def test_batches_are_lists_with_an_id_of_their_own(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url, batch_size=4)
    fill(reporter, *"abcdefghij")

    deliver()

    assert sorted(len(each.content) for each in receiver.received) == [2, 4, 4]
    assert sorted(receiver.request_ids) == [*"abcdefghij"]
    assert all(each.is_signed() for each in receiver.received)
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 3


def test_a_worker_that_died_leaves_leases_that_run_out(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    fill(reporter, "a", "b")
    assert len(claims.claim(reporter, timezone.now(), most=10)) == 2

    assert deliver() == 0
    assert deliver(after_s=claims.LEASE_S + 1) == 2


def test_two_workers_at_once_send_nothing_twice(sqlite_file: Path, receiver: Receiver) -> None:
    check_two_workers(receiver, "sqlite_file")


@pytest.mark.postgres
def test_two_workers_at_once_send_nothing_twice_on_postgresql(postgres: str, receiver: Receiver) -> None:
    check_two_workers(receiver, postgres)


def check_two_workers(receiver: Receiver, using: str) -> None:
    reporter = make_reporter(receiver.url, using=using)
    ids = [f"r{number:03}" for number in range(300)]
    fill(reporter, *ids, using=using)
    begin = threading.Barrier(2)
    delivered: list[int] = []

    def work() -> None:
        begin.wait()
        delivered.append(Courier(using=using).run(for_s=30))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert sorted(receiver.request_ids) == ids
    assert sum(delivered) == 300
    assert ReporterState.objects.using(using).get().delivered == 300
    assert set(states(reporter, using).values()) == {"delivered"}


def test_a_disabled_reporter_waits_and_loses_nothing(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url)
    fill(reporter, "a")
    UsageReporter.objects.update(enabled=False)

    assert deliver() == 0
    UsageReporter.objects.update(enabled=True)
    assert deliver() == 1


def test_a_secret_that_cannot_be_read_attempts_nothing(receiver: Receiver) -> None:
    reporter = make_reporter(receiver.url, secret="env:NOT_SET_ANYWHERE")
    fill(reporter, "a")

    assert deliver() == 0

    assert receiver.received == []
    assert "NOT_SET_ANYWHERE" in ReporterState.objects.get().last_error
    assert Delivery.objects.get().attempts == 0


def test_no_secret_is_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    reporter = make_reporter(receiver.url + "?token=url-token-77")
    reporter.set_headers({"Authorization": "Bearer header-token-88"})
    reporter.save()
    receiver.stop()
    fill(reporter, "a")

    with caplog.at_level(logging.DEBUG):
        deliver()
    receiver.start()

    written = caplog.text + ReporterState.objects.get().last_error + Delivery.objects.get().last_error
    assert "Nothing can be delivered to billing" in caplog.text
    assert SECRET not in written
    assert "header-token-88" not in written
    assert "url-token-77" not in "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("billing")
    )

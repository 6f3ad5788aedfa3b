"""Who works on which delivery, and what came of it: the outbox as those who deliver see it.

Taking is a compare-and-set of `next_attempt_at`, which moves on by a lease; on PostgreSQL the rows that another worker
is just taking are skipped. A worker that dies leaves nothing behind but leases that run out.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connections, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from billing.reporters.models import Delivery, ReporterState, UsageReporter
from billing.reporters.schedule import MAX_ATTEMPTS, pause_s, wait_s
from llmgateway.audit import acting_as

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""Longer than one round of deliveries can take."""
UNUSABLE_PAUSE_S = 60.0
WAKE_AFTER = 3
"""From so many failed rounds in a row on it was an outage: what waited because of it is sent once it is over."""
MAX_ERROR = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt. `error` is empty if the receiver has the event; it never holds a secret."""

    error: str = ""
    unavailable: bool = False
    """The receiver, not the event, is the reason: others would fail as well."""
    retry_after_s: float | None = None
    gone: bool = False
    """The receiver wants nothing any more."""
    tried: bool = True
    """False: it was not its turn before the round ended; nothing is counted."""

    @property
    def ok(self) -> bool:
        return self.tried and not self.error


Result = tuple[Delivery, Outcome]


def due_reporters(now: datetime, *, using: str = "default") -> list[UsageReporter]:
    """Those that have something to deliver now."""
    return list(
        UsageReporter.objects.using(using)
        .filter(Exists(_due(now, using).filter(reporter=OuterRef("pk"))), enabled=True)
        .filter(Q(state=None) | Q(state__paused_until=None) | Q(state__paused_until__lte=now))
        .order_by("id")
    )


def claim(reporter: UsageReporter, now: datetime, *, most: int, using: str = "default") -> list[Delivery]:
    """Takes up to `most` due deliveries; nobody else gets them before the lease has run out."""
    if not UsageReporter.objects.using(using).filter(pk=reporter.pk, enabled=True).exists():
        return []
    token = secrets.token_hex(16)
    with transaction.atomic(using=using):
        due = _due(now, using).filter(reporter=reporter).order_by("next_attempt_at")
        if connections[using].features.has_select_for_update_skip_locked:
            due = due.select_for_update(skip_locked=True)
        ids = list(due.values_list("pk", flat=True)[:most])
        taken = (
            _due(now, using).filter(pk__in=ids).update(claim=token, next_attempt_at=now + timedelta(seconds=LEASE_S))
        )
    return list(Delivery.objects.using(using).filter(claim=token).order_by("id")) if taken else []


def _due(now: datetime, using: str) -> QuerySet[Delivery]:
    return Delivery.objects.using(using).filter(state=Delivery.State.PENDING, next_attempt_at__lte=now)


def settle(reporter: UsageReporter, results: Sequence[Result], now: datetime, *, using: str = "default") -> None:
    """Writes down what came of deliveries that were taken, and what it says of the receiver."""
    with transaction.atomic(using=using):
        _release([delivery for delivery, outcome in results if not outcome.tried or outcome.gone], now, using)
        _deliver([delivery for delivery, outcome in results if outcome.ok], now, using)
        for delivery, outcome in results:
            if outcome.error and not outcome.gone:
                _postpone(delivery, outcome, now, using)
        _note(reporter, results, now, using)


def _release(deliveries: list[Delivery], now: datetime, using: str) -> None:
    for token in {delivery.claim for delivery in deliveries}:
        ours = Delivery.objects.using(using).filter(claim=token, state=Delivery.State.PENDING)
        ours.filter(pk__in=[delivery.pk for delivery in deliveries]).update(claim="", next_attempt_at=now)


def _deliver(deliveries: list[Delivery], now: datetime, using: str) -> None:
    # Whoever holds the claim by now: the receiver has it.
    ids = [delivery.pk for delivery in deliveries]
    Delivery.objects.using(using).filter(pk__in=ids).exclude(state=Delivery.State.DELIVERED).update(
        state=Delivery.State.DELIVERED, settled_at=now, claim="", last_error="", attempts=F("attempts") + 1
    )


def _postpone(delivery: Delivery, outcome: Outcome, now: datetime, using: str) -> None:
    attempts = delivery.attempts + 1
    ours = Delivery.objects.using(using).filter(pk=delivery.pk, claim=delivery.claim, state=Delivery.State.PENDING)
    error = outcome.error[:MAX_ERROR]
    if attempts >= MAX_ATTEMPTS:
        ours.update(state=Delivery.State.DEAD, settled_at=now, claim="", attempts=attempts, last_error=error)
        return
    wait = max(wait_s(attempts), outcome.retry_after_s or 0.0)
    ours.update(claim="", attempts=attempts, last_error=error, next_attempt_at=now + timedelta(seconds=wait))


def _note(reporter: UsageReporter, results: Sequence[Result], now: datetime, using: str) -> None:
    states = ReporterState.objects.using(using)
    state, _ = states.get_or_create(reporter=reporter)
    delivered = sum(outcome.ok for _, outcome in results)
    failed = [outcome for _, outcome in results if outcome.tried and outcome.error]
    asked_for = max((outcome.retry_after_s or 0.0 for outcome in failed), default=0.0)
    changes: dict[str, object] = {"delivered": F("delivered") + delivered, "failed": F("failed") + len(failed)}
    if delivered:
        changes |= {"failures": 0, "last_delivered_at": now, "last_error": "", "paused_until": None}
        if state.failures >= WAKE_AFTER:
            log.warning("The receiver of %s is back; what waited for it is being delivered", reporter)
            _wake(reporter, now, using)
    elif any(outcome.unavailable for outcome in failed):
        changes |= {"failures": F("failures") + 1}
        asked_for = max(asked_for, pause_s(state.failures + 1))
        if state.failures == 0:
            log.warning("Nothing can be delivered to %s, trying again for days: %s", reporter, failed[0].error)
    if failed:
        changes["last_error"] = failed[-1].error[:MAX_ERROR]
    if asked_for:
        changes["paused_until"] = now + timedelta(seconds=asked_for)
    states.filter(pk=reporter.pk).update(**changes)
    if any(outcome.gone for outcome in failed):
        _switch_off(reporter, using)


def _wake(reporter: UsageReporter, now: datetime, using: str) -> None:
    waiting = Delivery.objects.using(using).filter(
        reporter=reporter, state=Delivery.State.PENDING, claim="", attempts__gt=0, next_attempt_at__gt=now
    )
    waiting.update(next_attempt_at=now)


def _switch_off(reporter: UsageReporter, using: str) -> None:
    present = UsageReporter.objects.using(using).filter(pk=reporter.pk, enabled=True).first()
    if present is not None:
        log.warning("The receiver of %s answered 410 Gone, so the reporter is switched off", reporter)
        present.enabled = False
        with acting_as(source="delivery: the receiver answered 410 Gone"):
            present.save(using=using, update_fields=["enabled"])


def note_unusable(reporter: UsageReporter, error: str, now: datetime, *, using: str = "default") -> None:
    """The reporter cannot be used as it is configured: nothing is attempted, and nothing counted."""
    states = ReporterState.objects.using(using)
    state, _ = states.get_or_create(reporter=reporter)
    if state.last_error != error[:MAX_ERROR]:
        log.warning("Nothing can be delivered to %s: %s", reporter, error)
    states.filter(pk=reporter.pk).update(
        last_error=error[:MAX_ERROR], paused_until=now + timedelta(seconds=UNUSABLE_PAUSE_S)
    )


def replay(deliveries: QuerySet[Delivery], now: datetime) -> int:
    """Makes deliveries due now with all attempts before them, whatever came of them. Returns how many."""
    using = deliveries.db
    reporters = set(deliveries.order_by().values_list("reporter_id", flat=True).distinct())
    count = deliveries.order_by().update(
        state=Delivery.State.PENDING, attempts=0, next_attempt_at=now, claim="", settled_at=None
    )
    ReporterState.objects.using(using).filter(pk__in=reporters).update(paused_until=None)
    return count

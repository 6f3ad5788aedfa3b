"""Celery's wake-ups for what lies in rows. Losing one costs a moment: the next one finds the same work."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.utils import timezone

from billing.alerts.check import delete_old_alerts, raise_alerts
from billing.alerts.notice import notify
from billing.day_sums import sum_days
from billing.reconciliation import reconcile
from billing.reporters.courier import Courier
from billing.reporters.retention import delete_old_deliveries
from billing.response_shelf import delete_old_responses
from billing.retention import delete_old_usage
from llmgateway import conf as conf_module

RECONCILED = timedelta(days=3)
"""A night that was missed is made up for by the next two."""

_stopping = threading.Event()
_delivering = threading.Lock()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # the library has no types
def _stop_delivering(**_: Any) -> None:
    _stopping.set()


@shared_task(name="billing.deliver_events")  # type: ignore[untyped-decorator]
def deliver_events() -> None:
    """Sends what is due to reporters. One run per worker process at a time is enough: it goes on while there is work."""
    if _delivering.acquire(blocking=False):
        try:
            Courier(stop=_stopping).run()
        finally:
            _delivering.release()


@shared_task(name="billing.check_budget_alerts")  # type: ignore[untyped-decorator]
def check_budget_alerts() -> None:
    """Notes thresholds that budgets have reached, and tells people of them."""
    now = timezone.now()
    raise_alerts(now)
    notify(now)


@shared_task(name="billing.forget_old_events")  # type: ignore[untyped-decorator]
def forget_old_events() -> None:
    """Keeps the outbox and the list of alerts bounded."""
    now = timezone.now()
    delete_old_deliveries(now, delivered_days=conf_module.conf.webhook_retention_days)
    delete_old_alerts(now)


@shared_task(name="billing.forget_old_usage")  # type: ignore[untyped-decorator]
def forget_old_usage() -> None:
    """Removes the days of the ledger that are older than they are to be kept."""
    delete_old_usage(timezone.now(), keep_days=conf_module.conf.usage_retention_days)


@shared_task(name="billing.forget_old_responses")  # type: ignore[untyped-decorator]
def forget_old_responses() -> None:
    """Removes conversations of which nobody has wanted to know more for as long as they are to be kept."""
    delete_old_responses(timezone.now(), keep_hours=conf_module.conf.responses_retention_hours)


@shared_task(name="billing.reconcile")  # type: ignore[untyped-decorator]
def reconcile_recent_days() -> None:
    """Holds the sums of the last days against the ledger every night, and puts them right. What was is in the log."""
    reconcile(since=timezone.now() - RECONCILED, repair=True)


@shared_task(name="billing.sum_days")  # type: ignore[untyped-decorator]
def sum_days_that_are_over() -> None:
    """Sums up yesterday; and, after the first migration to such sums, every day before."""
    sum_days(timezone.now())

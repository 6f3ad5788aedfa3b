"""Notes thresholds that budgets have reached: a row, a log line and an event for reporters, each once per window.

A row is never changed by an edit of its budget. So a raised limit does not make a threshold fire again, a lowered one
makes those fire that are reached now, and an increase that ends does the same.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta

from django.db import transaction

from billing.alerts.models import Alert
from billing.alerts.spending import Spent, spent
from billing.journal_files import to_json
from billing.models import Budget
from billing.money import plain, usd
from billing.reporters.models import UsageReporter
from billing.reporters.outbox import add_event
from billing.reporters.payload import BUDGET_THRESHOLD, moment

log = logging.getLogger(__name__)

LATE = timedelta(minutes=15)
"""How long after a window's end requests that began in it may still be settled and counted."""
KEPT = timedelta(days=400)


def raise_alerts(now: datetime) -> list[Alert]:
    """Notes what has been reached and was not noted yet. Returns the new alerts. Safe to run in several workers."""
    budgets = Budget.objects.filter(enabled=True).exclude(alerts=[])
    budgets = budgets.select_related("key__team", "team", "provider", "deployment", "alias").prefetch_related("credits")
    watched = list(budgets)
    found = list(spent(watched, now))
    present = {(each.budget.pk, each.window_start) for each in found}
    # A window that has just ended takes in what began before its end.
    found += [
        each
        for each in spent(watched, now - LATE)
        if each.subject or (each.budget.pk, each.window_start) not in present
    ]
    return [alert for each in found for alert in _raise(each, now)]


def _raise(each: Spent, now: datetime) -> list[Alert]:
    limit = each.budget.whole_limit_pico_usd(now)
    reached = [percent for percent in sorted(set(each.budget.alerts)) if _is_reached(each, percent, limit)]
    if not reached:
        return []
    known = set(
        Alert.objects.filter(
            budget=each.budget, subject=each.subject, window_start=each.window_start, threshold__in=reached
        ).values_list("threshold", flat=True)
    )
    return [alert for percent in reached if percent not in known for alert in _create(each, percent, limit, now)]


def _is_reached(each: Spent, percent: int, limit: int) -> bool:
    return each.settled_pico_usd > 0 and each.settled_pico_usd * 100 >= percent * limit


def _create(each: Spent, percent: int, limit: int, now: datetime) -> list[Alert]:
    """The alert, unless another worker was quicker."""
    with transaction.atomic():
        alert, is_new = Alert.objects.get_or_create(
            budget=each.budget,
            subject=each.subject,
            window_start=each.window_start,
            threshold=percent,
            defaults={
                "settled_pico_usd": each.settled_pico_usd, "limit_pico_usd": limit, "at": now, "notify_at": now,
            },
        )  # fmt: skip
        if not is_new:
            return []
        add_event(BUDGET_THRESHOLD, _event_id(alert), _payload(alert), _listeners(each.budget))
    log.warning("%s", alert.sentence)
    return [alert]


def _listeners(budget: Budget) -> list[UsageReporter]:
    """Reporters that want to know; those of some teams hear of these teams' budgets alone."""
    team_id = budget.key.team_id if budget.key else budget.team_id
    reporters = UsageReporter.objects.filter(enabled=True, reports_budgets=True).prefetch_related("teams")
    return [
        reporter
        for reporter in reporters
        if not (teams := {team.pk for team in reporter.teams.all()}) or team_id in teams
    ]


def _event_id(alert: Alert) -> str:
    subject = hashlib.sha256(alert.subject.encode()).hexdigest()[:12] if alert.subject else "all"
    return f"budget_{alert.budget_id}_{subject}_{int(alert.window_start.timestamp())}_{alert.threshold}"


def _payload(alert: Alert) -> str:
    budget = alert.budget
    team = budget.key.team if budget.key else budget.team
    content = {
        "type": BUDGET_THRESHOLD,
        "budget": budget.name,
        "budget_id": budget.pk,
        "team": team.name if team else "",
        "key": budget.key.name if budget.key else "",
        "subject": alert.subject,
        "window": budget.window,
        "window_start": moment(alert.window_start.timestamp()),
        "threshold_percent": alert.threshold,
        "settled_usd": plain(usd(alert.settled_pico_usd)),
        "limit_usd": plain(usd(alert.limit_pico_usd)),
        "timestamp": moment(alert.at.timestamp()),
    }
    return to_json(content).decode()


def delete_old_alerts(now: datetime) -> int:
    """Those of windows that are long over. A total never ends, so its alerts stay, or they would fire again."""
    old = Alert.objects.filter(window_start__lt=now - KEPT, at__lt=now - KEPT).exclude(budget__window="total")
    return old.delete()[0]

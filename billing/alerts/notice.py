"""Writes to the people whose budget reached a threshold: managers of its team, or the owners of the gateway."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from smtplib import SMTPException

from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db.models import Q

from billing.alerts.models import Alert
from billing.models import Budget

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=5)
"""Who takes an alert has so long to send; after an error, that long passes before the next try."""
GIVE_UP = timedelta(days=1)
AT_ONCE = 50


def notify(now: datetime) -> int:
    """Sends what is due; one letter per alert. Returns how many alerts are done. Safe to run in several workers."""
    waiting = Alert.objects.filter(notified_at=None, notify_at__lte=now, at__gt=now - GIVE_UP).order_by("notify_at")
    return sum(_take(pk, now) for pk in list(waiting.values_list("pk", flat=True)[:AT_ONCE]))


def _take(pk: int, now: datetime) -> bool:
    ours = Alert.objects.filter(pk=pk, notified_at=None)
    if not ours.filter(notify_at__lte=now).update(notify_at=now + LEASE):
        return False
    alert = Alert.objects.select_related("budget__key__team", "budget__team").get(pk=pk)
    try:
        _send(alert)
    except (OSError, SMTPException) as error:
        reason = f"{type(error).__name__}: {error}"[:500]
        log.warning("The letter about %s could not be sent and is tried again in five minutes: %s", alert, reason)
        ours.update(notice_error=reason)
        return False
    ours.update(notified_at=now, notice_error="")
    return True


def _send(alert: Alert) -> None:
    addresses = recipients(alert.budget)
    if not addresses:
        return
    budget = alert.budget
    lines = [
        alert.sentence,
        f"The window is one {budget.window}, begun {alert.window_start:%Y-%m-%d %H:%M} UTC."
        if budget.window != Budget.Window.TOTAL
        else "The budget never resets.",
        "Requests go on being served until the budget is used up.",
    ]
    # Everybody gets the same letter, and nobody needs to see who else.
    EmailMessage(f"{alert.threshold} % of the budget {budget.name} are used", "\n\n".join(lines), bcc=addresses).send()


def recipients(budget: Budget) -> list[str]:
    """Addresses of active people only."""
    team_id = budget.key.team_id if budget.key else budget.team_id
    who = Q(memberships__team_id=team_id, memberships__role="manager") if team_id else Q(is_superuser=True)
    found = User.objects.filter(who, is_active=True).exclude(email="").order_by("email")
    return list(found.values_list("email", flat=True).distinct())

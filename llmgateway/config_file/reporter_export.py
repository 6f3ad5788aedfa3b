"""Reporters to text. Of secrets and headers only references are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from billing.models import UsageReporter
from providers.secret_values import is_reference

Text = Callable[[str], str]


def reporter_fields(row: UsageReporter, text: Text, *, secrets_as_variables: bool) -> dict[str, Any]:
    """What the file says of a reporter; `text` guards what must not be taken for a variable."""
    return {
        "kind": row.kind,
        "url": text(row.url),
        "secret": _secret(row, text, secrets_as_variables=secrets_as_variables),
        "headers": _headers(row, text),
        "allow_private_network": row.allow_private_network,
        "usage": row.reports_usage,
        "budgets": row.reports_budgets,
        "statuses": list(row.statuses),
        "teams": sorted(team.name for team in row.teams.all()),
        "api_key": row.api_key_field,
        "cost": row.includes_cost,
        "batch_size": row.batch_size,
        "enabled": row.enabled,
    }


DEFAULTS = {
    "kind": UsageReporter.Kind.WEBHOOK.value,
    "allow_private_network": False,
    "usage": True,
    "budgets": False,
    "api_key": UsageReporter.ApiKeyField.ID.value,
    "cost": True,
    "batch_size": 1,
}


def _secret(row: UsageReporter, text: Text, *, secrets_as_variables: bool) -> str:
    try:
        stored = row.stored_secret()
    except ImproperlyConfigured:
        return ""  # Unreadable with today's field keys; whoever imports the file must give it anew.
    if is_reference(stored):
        return text(stored)
    return f"${{{_variable(row.name)}}}" if stored and secrets_as_variables else ""


def _variable(name: str) -> str:
    return "REPORTER_" + re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") + "_SECRET"


def _headers(row: UsageReporter, text: Text) -> dict[str, str | None]:
    try:
        stored = row.stored_headers()
    except ImproperlyConfigured:
        return {}
    return {name: text(value) if is_reference(value) else None for name, value in stored.items()}

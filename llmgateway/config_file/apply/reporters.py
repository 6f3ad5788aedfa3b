"""Reporters. Their secrets are compared in clear and never shown."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured, ValidationError

from billing.models import UsageReporter
from llmgateway.config_file.apply.session import Session, is_new
from llmgateway.config_file.entries import ReporterEntry
from llmgateway.config_file.report import MASK, FieldChange
from providers.secret_values import is_reference

FIELDS = {
    "reports_usage": "usage",
    "reports_budgets": "budgets",
    "api_key_field": "api_key",
    "includes_cost": "cost",
}
"""Columns whose name in the file is another."""


def apply_reporters(session: Session) -> None:
    """After the teams that they name."""
    for entry in session.document.reporters:
        if not _apply(session, entry):
            session.document.unusable.add(("reporters", entry.name))


def _apply(session: Session, entry: ReporterEntry) -> bool:
    row = UsageReporter.objects.filter(name=entry.name).first() or UsageReporter(name=entry.name)
    teams = [session.teams.referred(name, entry.at("teams"), session.problems) for name in entry.teams]
    if is_new(row) and entry.secret is None and entry.kind == UsageReporter.Kind.WEBHOOK:
        session.problems.add(
            entry.at("secret"),
            "A new webhook needs the `secret` that signs: whsec_…, `${NAME}`, `env:NAME` or `file:PATH`.",
        )
        return False
    wanted: dict[str, object] = {
        "kind": entry.kind,
        "url": entry.url,
        "allow_private_network": entry.allow_private_network,
        "reports_usage": entry.reports_usage,
        "reports_budgets": entry.reports_budgets,
        "statuses": entry.statuses,
        "api_key_field": entry.api_key_field,
        "includes_cost": entry.includes_cost,
        "batch_size": entry.batch_size,
        **({} if entry.enabled is None else {"enabled": entry.enabled}),
    }
    if not session.put(row, "reporter", entry.name, entry, wanted, names=FIELDS):
        return False
    changes = [*_secret(session, row, entry), *_headers(session, row, entry)]
    known = [team for team in teams if team is not None]
    if {team.pk for team in known} != set(row.teams.values_list("pk", flat=True)):
        before = ", ".join(row.teams.values_list("name", flat=True))
        row.teams.set(known)
        changes.append(FieldChange("teams", before, ", ".join(entry.teams)))
    if changes:
        row.save(update_fields=["encrypted_secret", "encrypted_headers"])
        for change in changes:
            session.report.add_field("reporter", entry.name, change)
    return True


def _secret(session: Session, row: UsageReporter, entry: ReporterEntry) -> list[FieldChange]:
    if entry.secret is None or entry.secret == _stored(row):
        return []
    try:
        row.set_secret(entry.secret)
    except ValidationError as error:
        session.problems.add(entry.at("secret"), " ".join(error.messages))
        return []
    return [FieldChange("secret", MASK, entry.secret if is_reference(entry.secret) else MASK)]


def _headers(session: Session, row: UsageReporter, entry: ReporterEntry) -> list[FieldChange]:
    if entry.headers is None:
        return []
    stored = _stored_headers(row)
    # A header without a value keeps the one that is stored: so an export brings none to light.
    wanted = {name: value or (stored or {}).get(name, "") for name, value in entry.headers.items()}
    if wanted == stored:
        return []
    try:
        row.set_headers(wanted)
    except ValidationError as error:
        session.problems.add(entry.at("headers"), " ".join(error.messages))
        return []
    return [FieldChange("headers", ", ".join(stored or {}), ", ".join(wanted))]


def _stored(row: UsageReporter) -> str | None:
    try:
        return row.stored_secret()
    except ImproperlyConfigured:
        return None  # It cannot be read with today's field keys; what the file says replaces it.


def _stored_headers(row: UsageReporter) -> dict[str, str] | None:
    try:
        return row.stored_headers()
    except ImproperlyConfigured:
        return None

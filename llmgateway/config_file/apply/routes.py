"""Providers with their credentials, and deployments."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured, ValidationError

from billing.money import plain, usd
from llmgateway.config_file.apply.aliases import apply_aliases
from llmgateway.config_file.apply.limits import apply_budgets, apply_limits
from llmgateway.config_file.apply.session import Session, is_new
from llmgateway.config_file.entries import CredentialEntry, DeploymentEntry, ProviderEntry
from llmgateway.config_file.report import MASK, Action, Change, FieldChange, as_text
from providers.models import Credential, Deployment, Provider
from providers.secret_values import is_reference
from providers.validators import validate_adapter

DEPLOYMENT_FIELDS = {
    "connect_timeout_s": "timeouts.connect_s",
    "first_token_timeout_s": "timeouts.first_token_s",
    "idle_timeout_s": "timeouts.idle_s",
    "total_timeout_s": "timeouts.total_s",
    "drain_s": "timeouts.drain_s",
    "max_output_tokens": "max_output_tokens",
    "max_request_pico_usd": "max_request_usd",
}
HEALTH_FIELDS = {
    "probe_enabled": "health",
    **{
        f"probe_{name}": f"health.{name}"
        for name in ("path", "interval_s", "timeout_s", "unhealthy_after", "healthy_after")
    },
}


def apply_routes(session: Session) -> None:
    """In the order in which they refer to each other."""
    document = session.document
    session.providers.load(entry.name for entry in document.providers)
    for provider in document.providers:
        _apply_provider(session, provider)
    session.deployments.load(entry.name for entry in document.deployments)
    for deployment in document.deployments:
        if not _apply_deployment(session, deployment):
            session.deployments.spoil(deployment.name)
    apply_aliases(session)


def _enabled(enabled: bool | None) -> dict[str, object]:
    """What an admin switched off stays off, unless the file says so."""
    return {} if enabled is None else {"enabled": enabled}


def _apply_provider(session: Session, entry: ProviderEntry) -> None:
    row = session.providers.existing(entry.name) or Provider(name=entry.name)
    if not _adapter_exists(session, entry):
        session.providers.spoil(entry.name)
        return
    wanted: dict[str, object] = {
        "adapter": entry.adapter,
        "base_url": entry.base_url,
        "allow_private_network": entry.allow_private_network,
        **_enabled(entry.enabled),
    }
    if not session.put(row, "provider", entry.name, entry, wanted):
        session.providers.spoil(entry.name)
        return
    session.providers.add(entry.name, row)
    _apply_credentials(session, row, entry)
    apply_limits(session, row, row.limits.all(), entry.limits)
    apply_budgets(session, row, row.budgets.all(), entry.budgets)


def _adapter_exists(session: Session, entry: ProviderEntry) -> bool:
    try:
        validate_adapter(entry.adapter)
    except ValidationError as error:
        session.problems.add(entry.at("adapter"), " ".join(error.messages))
        return False
    return True


def _apply_credentials(session: Session, provider: Provider, entry: ProviderEntry) -> None:
    existing = {row.name: row for row in provider.credentials.all()}
    for credential in entry.credentials:
        row = existing.pop(credential.name, None) or Credential(provider=provider, name=credential.name)
        if not _apply_credential(session, row, credential):
            session.document.unusable.add(("credentials", f"{provider.name}/{credential.name}"))
    for row in existing.values():
        if session.prune:
            session.unnamed_credentials.append(row)
        else:
            session.unnamed(row, "credential", str(row))


def _apply_credential(session: Session, row: Credential, entry: CredentialEntry) -> bool:
    if is_new(row) and entry.api_key is None:
        session.problems.add(
            entry.at("api_key"), "A new credential needs its `api_key`: the key, `${NAME}`, `env:NAME` or `file:PATH`."
        )
        return False
    wanted: dict[str, object] = _enabled(entry.enabled)
    if entry.api_key is not None and entry.api_key != _stored_secret(row):
        try:
            row.set_secret(entry.api_key)
        except ValidationError as error:
            session.problems.add(entry.at("api_key"), " ".join(error.messages))
            return False
        return _save_secret(session, row, entry, wanted)
    return session.put(row, "credential", str(row), entry, wanted)


def _save_secret(session: Session, row: Credential, entry: CredentialEntry, wanted: dict[str, object]) -> bool:
    """The ciphertext differs each time, so it is written here and not compared by `put`."""
    assert entry.api_key is not None
    new = is_new(row)
    for column, value in wanted.items():
        setattr(row, column, value)
    if not session.clean(row, entry):
        return False
    row.save()
    shown = FieldChange("api_key", "" if new else MASK, entry.api_key if is_reference(entry.api_key) else MASK)
    session.report.changes.append(Change(Action.CREATED if new else Action.CHANGED, "credential", str(row), (shown,)))
    return True


def _stored_secret(row: Credential) -> str | None:
    if is_new(row):
        return None
    try:
        return row.stored_secret()
    except ImproperlyConfigured:
        return None  # It cannot be read with today's field keys; what the file says replaces it.


def _apply_deployment(session: Session, entry: DeploymentEntry) -> bool:
    provider = session.providers.referred(entry.provider, entry.at("provider"), session.problems)
    if provider is None:
        return False
    credential = None
    if entry.credential is not None:
        credential = _credential(session, provider, entry)
        if credential is None:
            return False
    row = session.deployments.existing(entry.name) or Deployment(name=entry.name)
    wanted: dict[str, object] = {
        "provider": provider,
        "credential": credential,
        "model": entry.model,
        "inject_usage": entry.inject_usage,
        **{column: getattr(entry, column) for column in DEPLOYMENT_FIELDS},
        **entry.health,
        **({} if entry.draining is None else {"draining": entry.draining}),
        **_enabled(entry.enabled),
    }
    show = {"max_request_pico_usd": _dollars}
    if not session.put(
        row, "deployment", entry.name, entry, wanted, names=DEPLOYMENT_FIELDS | HEALTH_FIELDS, show=show
    ):
        return False
    session.deployments.add(entry.name, row)
    apply_limits(session, row, row.limits.all(), entry.limits)
    apply_budgets(session, row, row.budgets.all(), entry.budgets)
    return True


def _dollars(value: object) -> str:
    return plain(usd(value)) if isinstance(value, int) else as_text(value)


def _credential(session: Session, provider: Provider, entry: DeploymentEntry) -> Credential | None:
    row = Credential.objects.filter(provider=provider, name=entry.credential).first()
    if row is None and ("credentials", f"{provider.name}/{entry.credential}") not in session.document.unusable:
        session.problems.add(
            entry.at("credential"), f"The provider {provider.name} has no credential named {entry.credential}."
        )
    return row

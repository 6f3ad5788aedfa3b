"""Rows to text: the file that, imported, changes nothing. No secret is ever in it in clear."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import yaml
from django.core.exceptions import ImproperlyConfigured

from billing.models import TOKEN_BUCKETS, Budget, BudgetCredit, Price, UsageReporter
from billing.money import plain, usd, usd_per_million
from billing.unit_prices import units_in_usd
from llmgateway import services
from llmgateway.conf import FULL_JITTER
from llmgateway.config_file.alias_export import LINKS, alias_fields
from llmgateway.config_file.report import as_text
from llmgateway.config_file.reporter_export import DEFAULTS as REPORTER_DEFAULTS
from llmgateway.config_file.reporter_export import reporter_fields
from llmgateway.config_file.schema import VERSION
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.limit_terms import reset_text
from llmgateway.models import ApiKey, GatewaySettings, Membership, NetworkList, RateLimit, Team
from llmgateway.rule_owners import is_of_everyone
from providers.models import Credential, Deployment, ModelAlias, Provider
from providers.secret_values import is_reference

Object = dict[str, Any]
_RULES = ("limits", "budgets__credits")
_OF_ALIASES = (*LINKS, *_RULES)

HEADER = (
    "# Written by `./gateway export`. `./gateway import` reads it back; docs/configuration.md describes the format.\n"
)


def export_text(*, secrets_as_variables: bool = False) -> str:
    """The whole configuration as YAML.

    With `secrets_as_variables` each stored provider key becomes `${PROVIDER_CREDENTIAL_API_KEY}`, to be set where the
    file is imported; otherwise it is left out, and an import keeps the one that is stored there.
    """
    pepper = pepper_fingerprint(services.newest_pepper())
    placeholders = _Placeholders() if secrets_as_variables else None
    document: Object = {
        "version": VERSION,
        "pepper": pepper,
        "providers": {row.name: _provider(row, placeholders) for row in _providers()},
        "deployments": {row.name: _deployment(row) for row in _deployments()},
        "aliases": {row.name: _alias(row) for row in _aliases()},
        "prices": [_price(row) for row in _prices()],
        "networks": {row.name: _texts(row.networks) for row in NetworkList.objects.order_by("name")},
        "teams": {row.name: _team(row) for row in _teams()},
        "keys": {row.name: _key(row, pepper) for row in _keys()},
        "limits": _limits(RateLimit.objects.filter(is_of_everyone())),
        "budgets": _budgets(Budget.objects.filter(is_of_everyone()).prefetch_related("credits")),
        "reporters": {row.name: _reporter(row, placeholders is not None) for row in _reporters()},
        "settings": _settings(),
    }
    return HEADER + yaml.dump(
        _without_empty(document),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=120,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    """Plain YAML, without the anchors that a repeated list would get."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _providers() -> Iterable[Provider]:
    return Provider.objects.prefetch_related("credentials", *_RULES).order_by("name")


def _deployments() -> Iterable[Deployment]:
    return Deployment.objects.select_related("provider", "credential").prefetch_related(*_RULES).order_by("name")


def _aliases() -> Iterable[ModelAlias]:
    return ModelAlias.objects.prefetch_related(*_OF_ALIASES).order_by("name")


def _prices() -> Iterable[Price]:
    return Price.objects.select_related("provider").order_by("provider__name", "model", "effective_from")


def _teams() -> Iterable[Team]:
    return Team.objects.prefetch_related(*_RULES, "memberships__user").order_by("name")


def _keys() -> Iterable[ApiKey]:
    """Revoked keys never come back, so they are not written."""
    rows = ApiKey.objects.filter(revoked_at=None).select_related("team").order_by("name")
    return rows.prefetch_related(*_RULES, "key_networks__network_list", "key_tenants__team")


def _reporters() -> Iterable[UsageReporter]:
    return UsageReporter.objects.prefetch_related("teams").order_by("name")


def _reporter(row: UsageReporter, secrets_as_variables: bool) -> Object:
    return _said(reporter_fields(row, _text, secrets_as_variables=secrets_as_variables), defaults=REPORTER_DEFAULTS)


def _provider(row: Provider, placeholders: _Placeholders | None) -> Object:
    return _said(
        {
            "adapter": _text(row.adapter),
            "base_url": _text(row.base_url),
            "allow_private_network": row.allow_private_network,
            "enabled": row.enabled,
            "credentials": [_credential(credential, placeholders) for credential in row.credentials.all()],
            **_rules(row),
        },
        defaults={"adapter": row.name, "allow_private_network": False},
    )


def _credential(row: Credential, placeholders: _Placeholders | None) -> Object:
    return _said({"name": _text(row.name), "api_key": _api_key(row, placeholders), "enabled": row.enabled})


def _api_key(row: Credential, placeholders: _Placeholders | None) -> str:
    try:
        stored = row.stored_secret()
    except ImproperlyConfigured:
        stored = ""  # Unreadable with today's field keys; whoever imports the file must give it anew.
    if is_reference(stored):
        return _text(stored)
    return placeholders.of(row) if placeholders is not None else ""


class _Placeholders:
    """Variables that stand for stored keys, each name once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, row: Credential) -> str:
        stem = re.sub(r"[^A-Z0-9]+", "_", f"{row.provider.name}_{row.name}".upper()).strip("_")
        stem = f"_{stem}" if stem[:1].isdigit() else stem
        name, number = f"{stem}_API_KEY", 1
        while name in self._taken:
            number += 1
            name = f"{stem}_API_KEY_{number}"
        self._taken.add(name)
        return "${" + name + "}"


def _deployment(row: Deployment) -> Object:
    timeouts = {
        "connect_s": row.connect_timeout_s,
        "first_token_s": row.first_token_timeout_s,
        "idle_s": row.idle_timeout_s,
        "total_s": row.total_timeout_s,
    }
    if row.drain_s:
        timeouts["drain_s"] = row.drain_s
    return _said(
        {
            "provider": row.provider.name,
            "credential": row.credential.name if row.credential else "",
            "model": row.model,
            "inject_usage": row.inject_usage,
            "timeouts": {name: _number(value) for name, value in timeouts.items()},
            "max_output_tokens": row.max_output_tokens,
            "max_request_usd": None if row.max_request_pico_usd is None else plain(usd(row.max_request_pico_usd)),
            "health": _health(row),
            "draining": row.draining,
            "enabled": row.enabled,
            **_rules(row),
        },
        defaults={"inject_usage": True, "draining": False},
    )


def _health(row: Deployment) -> Object:
    if not row.probe_enabled:
        return {}
    return {
        "path": row.probe_path,
        "interval_s": _number(row.probe_interval_s),
        "timeout_s": _number(row.probe_timeout_s),
        "unhealthy_after": row.probe_unhealthy_after,
        "healthy_after": row.probe_healthy_after,
    }


def _alias(row: ModelAlias) -> Object:
    return _said(alias_fields(row, _text, _moment) | _rules(row))


def _price(row: Price) -> Object:
    figures = {bucket: getattr(row, bucket) for bucket in TOKEN_BUCKETS}
    return {
        "provider": row.provider.name,
        "model": row.model,
        "effective_from": _moment(row.effective_from),
        **{bucket: plain(usd_per_million(figure)) for bucket, figure in figures.items() if figure is not None},
        **({"request": plain(usd(row.request))} if row.request else {}),
        **({"units": units_in_usd(row.units)} if row.units else {}),
        **({"source": _text(row.source)} if row.source else {}),
    }


def _team(row: Team) -> Object:
    return _said(
        {
            "time_zone": row.time_zone,
            "own_keys": "" if row.own_keys == Team.OwnKeys.INHERIT else row.own_keys,
            **_rules(row),
            "members": [_member(membership) for membership in row.memberships.all()],
        }
    )


def _member(row: Membership) -> Object:
    person = {"email": _text(row.user.email)} if row.user.email else {"username": _text(row.user.get_username())}
    return {**person, "role": row.role}


def _key(row: ApiKey, pepper: str) -> Object:
    return _said(
        {
            "team": row.team.name,
            "digest": row.digest,
            "pepper": row.pepper_id,
            "public_id": row.public_id,
            "user_id": _text(row.user_id),
            "models": _texts(row.allowed_models),
            "networks": sorted(tie.network_list.name for tie in row.key_networks.all()),
            "allowed_ips": _texts(row.allowed_ips),
            "starts_at": _moment(row.starts_at),
            "expires_at": _moment(row.expires_at),
            "priority": row.priority,
            "may_bypass_health": row.may_bypass_health,
            "tenants": sorted(tie.team.name for tie in row.key_tenants.all()),
            **_rules(row),
            "enabled": row.enabled,
        },
        defaults={"pepper": pepper, "priority": 0, "may_bypass_health": False},
    )


def _rules(owner: ApiKey | Team | Provider | Deployment | ModelAlias) -> Object:
    return {"limits": _limits(owner.limits.all()), "budgets": _budgets(owner.budgets.all())}


def _limits(rows: Iterable[RateLimit]) -> list[Object]:
    return [
        _said(
            {
                "metric": row.metric,
                "per": row.per,
                "amount": row.amount,
                "burst": row.burst,
                "scope": row.each,
                "model": row.model,
                "starts_on": _day(row.starts_on),
                "reset": reset_text(row.reset_seconds) if row.reset_seconds else "",
                "reset_anchor": _moment(row.reset_anchor),
                "oversize": row.oversize,
                "shadow": row.shadow,
                "enabled": row.enabled,
            },
            defaults={"oversize": RateLimit.Oversize.REFUSE, "shadow": False},
        )
        for row in rows
    ]


def _budgets(rows: Iterable[Budget]) -> list[Object]:
    return [
        _said(
            {
                "name": row.name,
                "window": row.window,
                "limit_usd": plain(usd(row.limit_pico_usd)),
                "scope": row.each,
                "starts_on": _day(row.starts_on),
                "mode": row.mode,
                "alerts": row.alerts,
                "increase": _increase(row),
                "credits": [_credit(credit) for credit in row.credits.all()],
                "enabled": row.enabled,
            }
        )
        for row in rows
    ]


def _day(starts_on: str) -> str | int:
    return int(starts_on) if starts_on.isdigit() else starts_on


def _increase(row: Budget) -> Object:
    if not row.increase_pico_usd:
        return {}
    return _said(
        {
            "amount_usd": plain(usd(row.increase_pico_usd)),
            "until": _moment(row.increase_until),
            "reason": _text(row.increase_reason),
        }
    )


def _credit(row: BudgetCredit) -> Object:
    return _said(
        {
            "amount_usd": plain(usd(row.amount_pico_usd)),
            "note": _text(row.note),
            "expires_at": _moment(row.expires_at),
        }
    )


def _settings() -> Object:
    row = GatewaySettings.objects.filter(pk=1).first()
    if row is None:
        return {}
    by_provider = row.chars_per_token_by_provider
    return {
        "retries": {
            "attempts": row.retry_attempts,
            "initial_ms": row.retry_initial_ms,
            "max_ms": row.retry_max_ms,
            "factor": _number(row.retry_factor),
            "jitter": FULL_JITTER if row.retry_jitter == 1 else _number(row.retry_jitter),
        },
        "request_body_limit_mb": row.request_body_limit_mb,
        "foreign_keys": row.foreign_keys,
        "admission": {
            "hold_wait_ms": row.hold_wait_ms,
            "strict_min_output_tokens": row.strict_min_output_tokens,
            "absent_cap_share": row.absent_cap_share,
            "quota_status": row.quota_status,
        },
        "circuits": {
            "mode": row.circuit_mode,
            "failures": row.circuit_failures,
            "window_s": _number(row.circuit_window_s),
            "open_s": _number(row.circuit_open_s),
            "wait_s": _number(row.circuit_wait_s),
        },
        "load": {
            "max_in_flight": row.max_in_flight,
            "max_queued": row.max_queued,
            "queue_wait_s": _number(row.queue_wait_s),
        },
        "cache": {"enabled": row.cache_enabled, "ttl_s": _number(row.cache_ttl_s), "max_mb": row.cache_max_mb},
        "vendor_models": row.vendor_models,
        "default_price": _default_price(row),
        "estimation": {
            "max_sample_bytes": row.max_sample_bytes,
            "bytes_per_token": _number(row.bytes_per_token),
            "chars_per_token": _number(row.chars_per_token),
            "chars_per_token_by_provider": {name: _number(number) for name, number in by_provider.items()},
        },
    }


def _default_price(row: GatewaySettings) -> Object | str:
    if row.default_input_price is None or row.default_output_price is None:
        return "none"
    figures: Object = {
        "input": plain(usd_per_million(row.default_input_price)),
        "output": plain(usd_per_million(row.default_output_price)),
    }
    if row.default_request_price is not None:
        figures["request"] = plain(usd(row.default_request_price))
    return figures


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _said(fields: Object, defaults: Object | None = None) -> Object:
    """The fields worth writing: neither empty nor what they are anyway."""
    # `enabled` is always written: absent, it would leave alone what an admin switched off.
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value not in ("", [], {}) and (defaults or {}).get(name, _NOTHING) != value
    }


_NOTHING = object()


def _without_empty(document: Object) -> Object:
    return {name: value for name, value in document.items() if value not in ([], {})}


def _text(text: str) -> str:
    """Text in which `${` means itself."""
    return text.replace("${", "$${")


def _texts(texts: Iterable[object]) -> list[str]:
    return [_text(str(text)) for text in texts]


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else as_text(moment)

"""Aliases to what the file says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from billing.money import plain, usd
from providers.models import AliasFallback, AliasTarget, ModelAlias

Object = dict[str, Any]
LINKS = (
    "targets__deployment", "targets__target_alias", "rules__use", "fallbacks__use", "cache_embeddings", "mirror_alias",
)  # fmt: skip
"""What must be read along with them."""


def alias_fields(
    row: ModelAlias, text: Callable[[str], str], moment: Callable[[datetime | None], str | None]
) -> Object:
    """Without what is empty; `text` writes a text so that it means itself."""
    return {
        "strategy": row.strategy,
        "sticky": row.sticky,
        "targets": [_target(target) for target in row.targets.all()],
        "rules": [
            {"name": rule.name, "when": text(rule.when), "use": rule.use.name, "enabled": rule.enabled}
            for rule in row.rules.all()
        ],
        "fallbacks": [_fallback(fallback) for fallback in row.fallbacks.all()],
        "parameters": _present(
            defaults=_literal(row.parameter_defaults, text), overrides=_literal(row.parameter_overrides, text)
        ),
        "timeouts": _present(
            first_token_s=_number(row.first_token_timeout_s),
            idle_s=_number(row.idle_timeout_s),
            total_s=_number(row.total_timeout_s),
        ),
        "retries": _present(attempts=row.retry_attempts),
        "cache": _cache(row),
        "hedge": _hedge(row),
        "mirror": _mirror(row),
        "retires_at": moment(row.retires_at),
        "replacement": row.replacement,
        "enabled": row.enabled,
    }


def _target(row: AliasTarget) -> Object:
    where = "alias" if row.deployment_id is None else "deployment"
    canary = {"canary_percent": _number(row.canary_percent)} if row.canary_percent else {}
    return {where: row.leads_to, "weight": row.weight, **canary}


def _fallback(row: AliasFallback) -> Object | str:
    return row.use.name if row.cause == AliasFallback.Cause.ERROR else {"on": row.cause, "use": row.use.name}


def _cache(row: ModelAlias) -> Object:
    if row.cache_ttl_s is None:
        return {}
    rule: Object = {"ttl_s": _number(row.cache_ttl_s)}
    if row.cache_mode != ModelAlias.CacheMode.EXACT:
        rule["mode"] = row.cache_mode
    if row.cache_similarity != 0.95:
        rule["similarity"] = _number(row.cache_similarity)
    return rule | ({"embeddings": row.cache_embeddings.name} if row.cache_embeddings else {})


def _hedge(row: ModelAlias) -> Object:
    if row.hedge_max_pico_usd is None:
        return {}
    return _present(max_usd=plain(usd(row.hedge_max_pico_usd)), after_s=_number(row.hedge_after_s))


def _mirror(row: ModelAlias) -> Object:
    if row.mirror_alias is None:
        return {}
    return {"alias": row.mirror_alias.name, "percent": _number(row.mirror_percent)}


def _present(**fields: Any) -> Object:
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def _number(value: float | None) -> int | float | None:
    return int(value) if value is not None and value == int(value) else value


def _literal(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {name: _literal(content, text) for name, content in value.items()}
    return [_literal(item, text) for item in value] if isinstance(value, list) else value

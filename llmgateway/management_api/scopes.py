"""What a token may be allowed, and which rights of a person amount to the same. No models here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.core.exceptions import ValidationError

MANAGER, MEMBER, AUDITOR = "manager", "member", "auditor"
EVERY_ROLE = frozenset({MANAGER, MEMBER, AUDITOR})


@dataclass(frozen=True, slots=True)
class Scope:
    """One right. `write` scopes include reading the same."""

    name: str
    summary: str
    permissions: tuple[str, ...]
    """Django permissions by which staff have it, all of them needed. They reach every team."""
    roles: frozenset[str] = EVERY_ROLE
    """The roles in a team that have it there."""
    in_one_team: bool = True
    """Whether a token of one team may have it: what concerns everybody it may not."""


_ALL = (
    Scope("keys:read", "see API keys, never their secrets", ("llmgateway.view_apikey",)),
    Scope(
        "keys:write",
        "create, change, rotate, disable and revoke API keys",
        ("llmgateway.add_apikey", "llmgateway.change_apikey"),
        frozenset({MANAGER}),
    ),
    Scope("teams:read", "see teams", ("llmgateway.view_team",)),
    Scope(
        "teams:write",
        "create and change teams",
        ("llmgateway.add_team", "llmgateway.change_team"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("memberships:read", "see who is in which team", ("llmgateway.view_membership",), frozenset({MANAGER})),
    Scope(
        "memberships:write",
        "take people into teams and out of them, and change their roles",
        ("llmgateway.add_membership", "llmgateway.change_membership", "llmgateway.delete_membership"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("limits:read", "see rate limits", ("llmgateway.view_ratelimit",)),
    Scope(
        "limits:write",
        "create, change and delete rate limits",
        ("llmgateway.add_ratelimit", "llmgateway.change_ratelimit", "llmgateway.delete_ratelimit"),
        frozenset({MANAGER}),
    ),
    Scope("budgets:read", "see budgets and what they stand at", ("billing.view_budget",)),
    Scope(
        "budgets:write",
        "create, change and delete budgets",
        ("billing.add_budget", "billing.change_budget", "billing.delete_budget"),
        frozenset({MANAGER}),
    ),
    Scope("prices:read", "see prices", ("billing.view_price",)),
    Scope("prices:write", "add prices", ("billing.add_price",), frozenset(), in_one_team=False),
    Scope(
        "reporters:read",
        "see who is told of requests, never the secrets",
        ("billing.view_usagereporter",),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "reporters:write",
        "create, change, delete and try reporters",
        ("billing.add_usagereporter", "billing.change_usagereporter", "billing.delete_usagereporter"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("usage:read", "see the ledger and its sums", ("billing.view_usagerecord",)),
    Scope("models:read", "see model aliases and their targets", ("providers.view_modelalias",)),
    Scope(
        "models:write",
        "create, change and delete model aliases, switch them off and retire them",
        ("providers.add_modelalias", "providers.change_modelalias", "providers.delete_modelalias"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("deployments:read", "see deployments", ("providers.view_deployment",), frozenset(), in_one_team=False),
    Scope(
        "deployments:write",
        "create, change and delete deployments",
        ("providers.add_deployment", "providers.change_deployment", "providers.delete_deployment"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("providers:read", "see providers", ("providers.view_provider",), frozenset(), in_one_team=False),
    Scope(
        "providers:write",
        "create, change and delete providers",
        ("providers.add_provider", "providers.change_provider", "providers.delete_provider"),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "credentials:read",
        "see which credentials there are, never their secrets",
        ("providers.view_credential",),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "credentials:write",
        "create, change and delete credentials",
        ("providers.add_credential", "providers.change_credential", "providers.delete_credential"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("networks:read", "see network lists", ("llmgateway.view_networklist",), frozenset(), in_one_team=False),
    Scope(
        "networks:write",
        "create, change and delete network lists",
        ("llmgateway.add_networklist", "llmgateway.change_networklist", "llmgateway.delete_networklist"),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "sources:read", "see where keys are looked up", ("llmgateway.view_authsource",), frozenset(), in_one_team=False
    ),
    Scope(
        "sources:write",
        "say where keys are looked up",
        ("llmgateway.add_authsource", "llmgateway.change_authsource", "llmgateway.delete_authsource"),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "bans:read",
        "see which keys of callers' own are banned",
        ("llmgateway.view_bannedkey",),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "bans:write",
        "ban keys of callers' own, and let them in again",
        ("llmgateway.add_bannedkey", "llmgateway.change_bannedkey", "llmgateway.delete_bannedkey"),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "catalogue:read",
        "see what models can do",
        ("providers.view_catalogueentry",),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "catalogue:write",
        "say what models can do",
        ("providers.add_catalogueentry", "providers.change_catalogueentry", "providers.delete_catalogueentry"),
        frozenset(),
        in_one_team=False,
    ),
    Scope("settings:read", "see the settings", ("llmgateway.view_gatewaysettings",), frozenset(), in_one_team=False),
    Scope(
        "settings:write", "change the settings", ("llmgateway.change_gatewaysettings",), frozenset(), in_one_team=False
    ),
    Scope(
        "health:read", "see how deployments are doing", ("providers.view_deployment",), frozenset(), in_one_team=False
    ),
    Scope(
        "health:write",
        "drain deployments, put them back and reset their circuits",
        ("providers.change_deployment",),
        frozenset(),
        in_one_team=False,
    ),
    Scope(
        "explain:read",
        "see what would become of a request, with the limits, budgets and targets of everybody",
        ("llmgateway.view_apikey", "llmgateway.view_ratelimit", "billing.view_budget", "providers.view_modelalias"),
        frozenset(),
        in_one_team=False,
    ),
)

SCOPES = {scope.name: scope for scope in _ALL}


def expanded(names: Iterable[str]) -> frozenset[str]:
    """`names` and what they include; names that are no scopes (any more) are left out."""
    known = {name for name in names if name in SCOPES}
    return frozenset(known | {reading for name in known if (reading := reading_of(name)) in SCOPES})


def reading_of(name: str) -> str:
    """The scope that reads what `name` is about."""
    return f"{name.partition(':')[0]}:read"


def validate_scopes(values: Iterable[object]) -> None:
    """Each value must be a scope, and there must be one."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValidationError("Write a list of scopes.", code="invalid_scopes")
    given = [str(value) for value in values]
    unknown = [name for name in given if name not in SCOPES]
    if unknown or not given:
        wrong = f"{', '.join(unknown)} is no scope; choose" if unknown else "Choose at least one scope"
        raise ValidationError(f"{wrong} of {', '.join(SCOPES)}.", code="invalid_scopes")

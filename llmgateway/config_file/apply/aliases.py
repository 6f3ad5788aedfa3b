"""Aliases with their targets, rules and fallbacks. Each comes after those that it leads to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

from django.core.exceptions import ValidationError

from billing.money import plain, usd
from llmgateway.config_file.apply.limits import apply_budgets, apply_limits
from llmgateway.config_file.apply.session import Session, is_new
from llmgateway.config_file.entries import AliasEntry
from llmgateway.config_file.problems import Place
from llmgateway.config_file.report import as_text
from providers.alias_graph import circle_message, circles_sought_later, order_of, stored_circles
from providers.alias_models import refuse_canaries_beyond_all
from providers.models import AliasFallback, AliasRule, AliasTarget, Deployment, ModelAlias

ALIAS_FIELDS = {
    "parameter_defaults": "parameters.defaults",
    "parameter_overrides": "parameters.overrides",
    "first_token_timeout_s": "timeouts.first_token_s",
    "idle_timeout_s": "timeouts.idle_s",
    "total_timeout_s": "timeouts.total_s",
    "retry_attempts": "retries.attempts",
    "cache_ttl_s": "cache.ttl_s",
    "cache_mode": "cache.mode",
    "cache_similarity": "cache.similarity",
    "cache_embeddings": "cache.embeddings",
    "hedge_max_pico_usd": "hedge.max_usd",
    "hedge_after_s": "hedge.after_s",
    "mirror_alias": "mirror.alias",
    "mirror_percent": "mirror.percent",
}


def apply_aliases(session: Session) -> None:
    """Those of the file, so that none refers to one that is not there yet."""
    entries = {entry.name: entry for entry in session.document.aliases}
    session.aliases.load({*entries, *(name for entry in entries.values() for name, _ in _uses(entry))})
    order = order_of(entries, {name: [use for use, _ in _uses(entry)] for name, entry in entries.items()})
    for circle in order.circles:
        _tell_circle(session, entries, list(circle))
    if order.circles:
        return  # In no order could they be written.
    with circles_sought_later():
        for entry in [entries[name] for name in order.ids if name in entries]:
            if not _Application(session, entry).apply():
                session.aliases.spoil(entry.name)
    if any(True for entry in entries.values() for _ in _uses(entry)):
        for names in stored_circles():
            _tell_circle(session, entries, names)


def _tell_circle(session: Session, entries: dict[str, AliasEntry], circle: list[str]) -> None:
    """At the link of the file that is one of its steps, the last if there are several."""
    place: Place | None = None
    for name, use in pairwise(circle):
        if name in entries:
            place = next((at for step, at in _uses(entries[name]) if step == use), entries[name].place)
    session.problems.add(place or Place("aliases", 1, 1), circle_message(circle))


def _uses(entry: AliasEntry) -> Iterator[tuple[str, Place]]:
    """The aliases that one leads to, and where the file says so."""
    for target in entry.targets:
        if target.alias:
            yield target.alias, target.at("alias")
    for rule in entry.rules:
        yield rule.use, rule.at("use")
    for fallback in entry.fallbacks:
        yield fallback.use, fallback.places.get("use", fallback.place)
    if entry.mirror_alias:
        yield entry.mirror_alias, entry.at("mirror.alias")
    if entry.cache_embeddings:
        yield entry.cache_embeddings, entry.at("cache.embeddings")


class _Application:
    """One alias of the file, to its rows."""

    def __init__(self, session: Session, entry: AliasEntry) -> None:
        self._session = session
        self._entry = entry

    def apply(self) -> bool:
        """Whether the alias is there; what is wrong has been told."""
        session, entry = self._session, self._entry
        row = session.aliases.existing(entry.name) or ModelAlias(name=entry.name)
        wanted: dict[str, object] = {
            **entry.columns,
            "mirror_alias": self._alias(entry.mirror_alias, "mirror.alias"),
            "cache_embeddings": self._alias(entry.cache_embeddings, "cache.embeddings"),
            **({} if entry.enabled is None else {"enabled": entry.enabled}),
        }
        show = {"hedge_max_pico_usd": _dollars, "parameter_defaults": _json, "parameter_overrides": _json}
        if not session.put(
            row, "alias", entry.name, entry, self._worth_telling(row, wanted), names=ALIAS_FIELDS, show=show
        ):
            return False
        session.aliases.add(entry.name, row)
        self._apply_targets(row)
        self._apply_rules(row)
        self._apply_fallbacks(row)
        apply_limits(session, row, row.limits.all(), entry.limits)
        apply_budgets(session, row, row.budgets.all(), entry.budgets)
        return True

    def _alias(self, name: str, field: str) -> ModelAlias | None:
        return self._referred(name, self._entry.at(field)) if name else None

    def _referred(self, name: str, place: Place) -> ModelAlias | None:
        return self._session.aliases.referred(name, place, self._session.problems)

    @staticmethod
    def _worth_telling(row: ModelAlias, wanted: dict[str, object]) -> dict[str, object]:
        """A new alias is not described by what it would be anyway."""
        if not is_new(row):
            return wanted
        told = {"strategy", "enabled"}
        return {name: value for name, value in wanted.items() if name in told or getattr(row, name) != value}

    def _apply_targets(self, alias: ModelAlias) -> None:
        session, entries = self._session, self._entry.targets
        places = [self._leads_to(index) for index in range(len(entries))]
        existing = {(row.deployment_id, row.target_alias_id): row for row in alias.targets.all()}
        kept = {(_id(deployment), _id(nested)) for deployment, nested in places}
        for identity, row in existing.items():
            if identity not in kept:
                # The targets of an alias are part of it: what the file no longer lists must not answer.
                session.remove(row, "target", f"{alias.name} → {row.leads_to}")
        for position, (entry, (deployment, nested)) in enumerate(zip(entries, places, strict=True)):
            if deployment is None and nested is None:
                continue
            row = existing.get((_id(deployment), _id(nested))) or AliasTarget(
                alias=alias, deployment=deployment, target_alias=nested
            )
            wanted: dict[str, object] = {"weight": entry.weight, "position": position}
            if entry.canary_percent or not is_new(row):
                wanted["canary_percent"] = entry.canary_percent
            session.put(row, "target", f"{alias.name} → {row.leads_to}", entry, wanted, unique=True)
        try:
            refuse_canaries_beyond_all([entry.canary_percent for entry in entries])
        except ValidationError as error:
            session.problems.add(self._entry.at("targets"), " ".join(error.messages))

    def _leads_to(self, index: int) -> tuple[Deployment | None, ModelAlias | None]:
        entry = self._entry.targets[index]
        if entry.alias:
            return None, self._referred(entry.alias, entry.at("alias"))
        deployments = self._session.deployments
        return deployments.referred(entry.deployment, entry.at("deployment"), self._session.problems), None

    def _apply_rules(self, alias: ModelAlias) -> None:
        existing = {row.name: row for row in alias.rules.all()}
        for position, entry in enumerate(self._entry.rules):
            use = self._referred(entry.use, entry.at("use"))
            row = existing.pop(entry.name, None) or AliasRule(alias=alias, name=entry.name)
            if use is not None:
                wanted: dict[str, object] = {"when": entry.when, "use": use, "position": position}
                wanted |= {} if entry.enabled is None else {"enabled": entry.enabled}
                self._session.put(row, "rule", f"{entry.name} of {alias.name}", entry, wanted, unique=True)
        for row in existing.values():
            self._session.remove(row, "rule", f"{row.name} of {alias.name}")

    def _apply_fallbacks(self, alias: ModelAlias) -> None:
        existing = {(row.cause, row.use.name): row for row in alias.fallbacks.all()}
        for position, entry in enumerate(self._entry.fallbacks):
            use = self._referred(entry.use, entry.places.get("use", entry.place))
            if use is None:
                continue
            row = existing.pop((entry.cause, entry.use), None) or AliasFallback(alias=alias, cause=entry.cause, use=use)
            label = f"{alias.name} → {use.name} ({row.get_cause_display().lower()})"
            self._session.put(row, "fallback", label, entry, {"position": position}, unique=True)
        for row in existing.values():
            self._session.remove(row, "fallback", f"{alias.name} → {row.use.name} ({row.get_cause_display().lower()})")


def _id(row: Deployment | ModelAlias | None) -> int | None:
    return None if row is None else row.pk


def _dollars(value: object) -> str:
    return plain(usd(value)) if isinstance(value, int) else as_text(value)


def _json(value: object) -> str:
    return json.dumps(value) if value else as_text(None)

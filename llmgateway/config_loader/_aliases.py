"""Aliases with their targets, rules and fallbacks, to what the hot path follows.

Links that would lead an alias back to itself are left out, so that whoever follows links comes to an end. What is
switched off is passed over in silence; what cannot be used is left out and told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import QuerySet

from llmgateway.cel import compiled
from llmgateway.config_loader._quotas import PlaceQuotas
from llmgateway.config_loader._values import as_text, bounded, epoch, fields_of
from llmgateway.pipeline.conditions import check_expression
from llmgateway.pipeline.route_rules import (
    CacheRule,
    Fallback,
    FallbackCause,
    HedgeRule,
    MirrorRule,
    Parameters,
    Patience,
    RoutingRule,
)
from llmgateway.pipeline.snapshot import Alias, BudgetRule, ConfigProblem, Deployment, Limit, Target
from providers.alias_graph import Order, order_of
from providers.models import AliasFallback, AliasRule, AliasTarget, ModelAlias
from providers.validators import DECIDED_ELSEWHERE

if TYPE_CHECKING:
    from llmgateway.cel import Program

TABLE = "providers_modelalias"
COLUMNS = (
    "id", "name", "strategy", "sticky", "replacement", "first_token_timeout_s", "idle_timeout_s", "total_timeout_s",
    "retry_attempts", "cache_ttl_s", "cache_mode", "cache_similarity", "cache_embeddings_id", "cache_generation",
    "hedge_max_pico_usd", "hedge_after_s", "mirror_alias_id", "mirror_percent",
)  # fmt: skip
AS_TEXT = ("created_at", "retires_at", "parameter_defaults", "parameter_overrides")
LONGEST_S = 31_536_000.0

Row = Mapping[str, Any]
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class PlaceRules:
    """Limits and budgets of providers, deployments and aliases."""

    limits: PlaceQuotas[Limit]
    budgets: PlaceQuotas[BudgetRule]


def load_aliases(
    deployments: Mapping[int, Deployment], rules: PlaceRules, problems: list[ConfigProblem]
) -> dict[str, Alias]:
    """Every enabled alias by name."""
    texts = {f"{name}_": as_text(name) for name in AS_TEXT}
    rows = {row["id"]: row for row in ModelAlias.objects.filter(enabled=True).values(*COLUMNS, **texts)}
    return _AliasLoader(rows, _Followers.of(rows), deployments, rules, problems).load()


@dataclass(frozen=True, slots=True)
class _Followers:
    """What hangs on each alias, in order."""

    targets: dict[int, list[Row]]
    rules: dict[int, list[Row]]
    fallbacks: dict[int, list[Row]]

    @classmethod
    def of(cls, aliases: Mapping[int, Row]) -> _Followers:
        def grouped(rows: QuerySet[Any], *columns: str) -> dict[int, list[Row]]:
            found: dict[int, list[Row]] = {}
            for row in rows.order_by("position", "id").values("id", "alias_id", *columns):
                if row["alias_id"] in aliases:
                    found.setdefault(row["alias_id"], []).append(row)
            return found

        return cls(
            grouped(AliasTarget.objects.all(), "deployment_id", "target_alias_id", "weight", "canary_percent"),
            grouped(AliasRule.objects.filter(enabled=True), "name", "when", "use_id"),
            grouped(AliasFallback.objects.all(), "cause", "use_id"),
        )


@dataclass(slots=True)
class _AliasLoader:
    rows: Mapping[int, Row]
    followers: _Followers
    deployments: Mapping[int, Deployment]
    place_rules: PlaceRules
    problems: list[ConfigProblem]
    _closing: frozenset[tuple[int, int]] = frozenset()
    _ready: dict[int, Alias] = field(default_factory=dict)

    def load(self) -> dict[str, Alias]:
        order = order_of(sorted(self.rows), {alias_id: self._links(alias_id) for alias_id in self.rows})
        self._tell_circles(order)
        self._closing = order.closing
        for alias_id in order.ids:
            self._ready[alias_id] = self._alias(self.rows[alias_id])
        return {row["name"]: self._ready[alias_id] for alias_id, row in self.rows.items()}

    def _links(self, alias_id: int) -> list[int]:
        row = self.rows[alias_id]
        uses = [target["target_alias_id"] for target in self.followers.targets.get(alias_id, ())]
        uses += [rule["use_id"] for rule in self.followers.rules.get(alias_id, ())]
        uses += [fallback["use_id"] for fallback in self.followers.fallbacks.get(alias_id, ())]
        uses += [row["mirror_alias_id"], row["cache_embeddings_id"]]
        return [use for use in dict.fromkeys(uses) if use in self.rows]

    def _tell_circles(self, order: Order[int]) -> None:
        for circle in order.circles:
            names = [self.rows[alias_id]["name"] for alias_id in circle]
            message = (
                f"{' → '.join(names)} is a circle. {names[-2]} does not lead to {names[-1]} until you take one of these "
                "links out."
            )
            self._tell(TABLE, circle[-2], f"alias {names[-2]}", message)

    def _tell(self, table: str, row_id: int, name: str, message: str) -> None:
        self.problems.append(ConfigProblem(table, str(row_id), name, message))

    def _other(self, alias_id: int, use_id: int | None) -> str | None:
        """The name of an alias that may be followed."""
        if use_id is None or use_id not in self.rows or (alias_id, use_id) in self._closing:
            return None
        name: str = self.rows[use_id]["name"]
        return name

    def _alias(self, row: Row) -> Alias:
        alias_id, owner = row["id"], f"alias:{row['id']}"
        return Alias(
            id=alias_id,
            name=row["name"],
            created=self._created(row),
            strategy=self._one_of(row, "strategy", ModelAlias.Strategy.values, ModelAlias.Strategy.WEIGHTED.value),
            targets=self._targets(alias_id),
            limits=self.place_rules.limits.all_of(owner),
            budgets=self.place_rules.budgets.all_of(owner),
            retires_at=self._retires(row),
            replacement=row["replacement"],
            rules=self._rules(row),
            fallbacks=self._fallbacks(row),
            sticky=self._one_of(row, "sticky", ModelAlias.Sticky.values, ""),
            parameters=self._parameters(row),
            patience=self._patience(row),
            retries=row["retry_attempts"],
            cache=self._cache(row),
            hedge=self._hedge(row),
            mirror=self._mirror(row),
        )

    def _targets(self, alias_id: int) -> tuple[Target, ...]:
        targets = []
        for row in self.followers.targets.get(alias_id, ()):
            deployment = self.deployments.get(row["deployment_id"])
            canary = bounded(row["canary_percent"], 0.0, 100.0, otherwise=0.0) / 100
            if deployment is not None:
                targets.append(Target(deployment, row["weight"], canary=canary))
            elif self._other(alias_id, row["target_alias_id"]) is not None:
                nested = self._ready[row["target_alias_id"]]
                targets.append(Target(None, row["weight"], nested, canary))
        return tuple(targets)

    def _rules(self, alias: Row) -> tuple[RoutingRule, ...]:
        rules = []
        for row in self.followers.rules.get(alias["id"], ()):
            use = self._other(alias["id"], row["use_id"])
            if use is None:
                continue
            try:
                program = _compiled(row["when"])
            except ValueError as error:
                message = f"its expression cannot be read, so it never holds; correct it. {error}"
                self._tell("providers_aliasrule", row["id"], f"rule {row['name']} of alias {alias['name']}", message)
                continue
            rules.append(RoutingRule(row["name"], row["when"], use, program))
        return tuple(rules)

    def _fallbacks(self, alias: Row) -> tuple[Fallback, ...]:
        fallbacks = []
        for row in self.followers.fallbacks.get(alias["id"], ()):
            use = self._other(alias["id"], row["use_id"])
            if use is None:
                continue
            if row["cause"] not in AliasFallback.Cause.values:
                message = f"{row['cause']!r} is not a cause this version knows; this fallback is never asked."
                name = f"fallback {use} of alias {alias['name']}"
                self._tell("providers_aliasfallback", row["id"], name, message)
                continue
            fallbacks.append(Fallback(use, FallbackCause(row["cause"])))
        return tuple(fallbacks)

    def _parameters(self, row: Row) -> Parameters | None:
        defaults, overrides = (self._fields(row, f"parameter_{kind}") for kind in ("defaults", "overrides"))
        return Parameters(defaults, overrides) if defaults or overrides else None

    def _fields(self, row: Row, column: str) -> dict[str, Any]:
        try:
            fields = fields_of(row[f"{column}_"])
        except ValueError:
            self._tell_unread(row, column, "requests are sent as they are")
            return {}
        if not DECIDED_ELSEWHERE.isdisjoint(fields):
            names = ", ".join(sorted(DECIDED_ELSEWHERE.intersection(fields)))
            self._tell_unread(row, f"{column} ({names})", "these fields are left as they are")
        return {name: value for name, value in fields.items() if name not in DECIDED_ELSEWHERE}

    def _patience(self, row: Row) -> Patience | None:
        seconds = [self._seconds(row, f"{name}_timeout_s") for name in ("first_token", "idle", "total")]
        return Patience(*seconds) if any(each is not None for each in seconds) else None

    def _seconds(self, row: Row, column: str) -> float | None:
        """None where the row says nothing, or nothing that can be meant."""
        value = row[column]
        if value is None or (isinstance(value, (int, float)) and 0 < value < math.inf):
            return value
        self._tell_unread(row, column, "it counts as empty")
        return None

    def _cache(self, row: Row) -> CacheRule | None:
        ttl_s = self._seconds(row, "cache_ttl_s")
        if ttl_s is None:
            return None
        mode = self._one_of(row, "cache_mode", ModelAlias.CacheMode.values, ModelAlias.CacheMode.EXACT.value)
        embeddings = self._other(row["id"], row["cache_embeddings_id"]) or ""
        if mode == ModelAlias.CacheMode.SEMANTIC.value and not embeddings:
            self._tell_unread(row, "cache_embeddings", "kept answers serve the same questions only")
            mode = ModelAlias.CacheMode.EXACT.value
        similarity = bounded(row["cache_similarity"], 0.0, 1.0, otherwise=1.0)
        return CacheRule(min(ttl_s, LONGEST_S), mode, similarity, embeddings, row["cache_generation"])

    def _hedge(self, row: Row) -> HedgeRule | None:
        most = row["hedge_max_pico_usd"]
        if not isinstance(most, int) or most <= 0:
            return None
        return HedgeRule(most, self._seconds(row, "hedge_after_s"))

    def _mirror(self, row: Row) -> MirrorRule | None:
        use = self._other(row["id"], row["mirror_alias_id"])
        share = bounded(row["mirror_percent"], 0.0, 100.0, otherwise=0.0) / 100
        return MirrorRule(use, share) if use is not None and share else None

    def _one_of(self, row: Row, column: str, known: list[Known], otherwise: Known) -> Known:
        value: Known = row[column]
        if value in known:
            return value
        self._tell_unread(row, column, f"it counts as {otherwise or 'empty'}")
        return otherwise

    def _retires(self, row: Row) -> float | None:
        """A date that cannot be read is long past: what was meant to end must not go on unnoticed."""
        try:
            moment = epoch(row["retires_at_"])
        except (ValueError, OverflowError):
            message = "the moment of its retirement cannot be read, so it counts as retired; enter it again."
            self._tell(TABLE, row["id"], f"alias {row['name']}", message)
            return 0.0
        return None if moment == math.inf else moment

    def _created(self, row: Row) -> int:
        try:
            return int(epoch(row["created_at_"]) or 0)
        except (ValueError, OverflowError):
            message = "the moment of its creation cannot be read and is shown as 1970; requests are not affected."
            self._tell(TABLE, row["id"], f"alias {row['name']}", message)
            return 0

    def _tell_unread(self, row: Row, column: str, meaning: str) -> None:
        message = f"its {column} cannot be used as it stands, so {meaning}; save the alias again."
        self._tell(TABLE, row["id"], f"alias {row['name']}", message)


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Program:
    """Raises ValueError for what is no condition. Programs are kept: routing is read anew with every change of it."""
    if problem := check_expression(text):
        raise ValueError(problem)
    return compiled(text)

"""Limits and budgets, flattened: each key carries its own, its team's and the global ones.

Keys share what is equal: a key without quotas of its own has its team's very tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import Q

from llmgateway.limit_terms import CALLERS, OWNERS
from llmgateway.models import Team
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, KeyDigest, Limit

PLACES = tuple(owner for owner in OWNERS if owner not in CALLERS)
"""The owners that are a place where requests go, not somebody who asks."""

T = TypeVar("T", bound=Limit | BudgetRule)


@dataclass(frozen=True, slots=True)
class TeamFacts:
    name: str
    time_zone: str


@dataclass(slots=True)
class Quotas(Generic[T]):
    """Rules of those who ask, by whom they bind."""

    everyone: tuple[T, ...] = ()
    by_team: dict[int, tuple[T, ...]] = field(default_factory=dict)
    """The team's and the global ones."""
    by_key: dict[int, tuple[T, ...]] = field(default_factory=dict)
    """The key's own alone."""

    @classmethod
    def of(cls, rules: Iterable[T]) -> Quotas[T]:
        by_key: dict[int, tuple[T, ...]] = {}
        by_team: dict[int, tuple[T, ...]] = {}
        everyone: tuple[T, ...] = ()
        for rule in rules:
            kind, _, number = rule.owner.partition(":")
            if kind == "key":
                by_key[int(number)] = (*by_key.get(int(number), ()), rule)
            elif kind == "team":
                by_team[int(number)] = (*by_team.get(int(number), ()), rule)
            else:
                everyone = (*everyone, rule)
        return cls(everyone, {team_id: own + everyone for team_id, own in by_team.items()}, by_key)

    def shared(self, team_id: int) -> tuple[T, ...]:
        """What binds every key of the team."""
        return self.by_team.get(team_id, self.everyone)

    def taken_by(self, key_id: int, team_id: int) -> tuple[T, ...]:
        """Everything that binds a key. Asked once of each: its own are let go of, for to free a hundred thousand groups
        at once in the end would stop every thread."""
        return self.joined(self.by_key.pop(key_id, ()), team_id)

    def joined(self, own: tuple[T, ...], team_id: int) -> tuple[T, ...]:
        """A key's own, and what binds it as one of the team."""
        shared = self.shared(team_id)
        return own + shared if own else shared


@dataclass(slots=True)
class PlaceQuotas(Generic[T]):
    """Rules of providers, deployments and aliases, by owner (`provider:2`)."""

    by_owner: dict[str, tuple[T, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Iterable[T]) -> PlaceQuotas[T]:
        by_owner: dict[str, tuple[T, ...]] = {}
        for rule in rules:
            by_owner[rule.owner] = (*by_owner.get(rule.owner, ()), rule)
        return cls(by_owner)

    def all_of(self, *owners: str) -> tuple[T, ...]:
        return tuple(rule for owner in owners for rule in self.by_owner.get(owner, ()))


def is_own(rule: Limit | BudgetRule) -> bool:
    """Whether it is a key's own."""
    return rule.owner.startswith("key:")


def own_part(rules: tuple[T, ...]) -> tuple[T, ...]:
    """A key's own among its rules: they come first."""
    for number, rule in enumerate(rules):
        if not rule.owner.startswith("key:"):
            return rules[:number]
    return rules


def is_of_place(rule: Limit | BudgetRule) -> bool:
    return rule.owner.partition(":")[0] in PLACES


def owner_of(row_ids: Iterable[int | None]) -> tuple[str, str]:
    """The kind of owner and `kind:id`, from the columns in the order of `OWNERS`; both empty: everyone."""
    for kind, row_id in zip(OWNERS, row_ids, strict=True):
        if row_id is not None:
            return kind, f"{kind}:{row_id}"
    return "", ""


class OwnerNames:
    """Whose a rule is, as rules say it: all rules of one owner have one text, wherever in the tables they stand."""

    def __init__(self, before: Mapping[bytes, KeyDigest]) -> None:
        self._known: dict[str, str] = {}
        for entry in before.values():
            for rule in entry.key.limits[:1] or entry.key.budgets[:1]:
                if is_own(rule):
                    self._known[rule.owner] = rule.owner

    def of(self, row_ids: Iterable[int | None]) -> tuple[str, str]:
        """As `owner_of`."""
        kind, owner = owner_of(row_ids)
        return kind, self._known.setdefault(owner, owner)


def scope_of(kind: str, each: str) -> str:
    """What a rule counts, as the hot path calls it."""
    if each:
        return each
    return {"": "global", "alias": "model"}.get(kind, kind)


def load_teams(problems: list[ConfigProblem]) -> dict[int, TeamFacts]:
    teams = {}
    for team_id, name, time_zone in Team.objects.order_by().values_list("id", "name", "time_zone"):
        if not _is_time_zone(time_zone):
            problems.append(
                ConfigProblem(
                    "llmgateway_team",
                    str(team_id),
                    f"team {name}",
                    f"{time_zone!r} is not a time zone; its limits and budgets follow UTC until you choose another.",
                )
            )
            time_zone = "UTC"  # noqa: PLW2901  # The name stays what it is.
        teams[team_id] = TeamFacts(name, time_zone)
    return teams


@lru_cache(maxsize=1024)
def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True


def of_callers(key_ids: Collection[int] | None) -> Q:
    """Rows of keys, teams and everyone; with `key_ids`, of no other keys: those of teams and everyone are few."""
    places = Q(**{f"{place}_id__isnull": True for place in PLACES})
    return places if key_ids is None else places & (Q(key_id__in=key_ids) | Q(key_id__isnull=True))


def of_places() -> Q:
    """Rows of providers, deployments and aliases."""
    return ~of_callers(None)


Pause = Callable[[], None]


def no_pause() -> None:
    """For rules that are few."""

"""A new snapshot from an old one and the rows that changed, reading no more than needed.

Changed keys are read again. What a team, a network list or everyone's rules lend to keys is exchanged in memory,
for a hundred thousand keys may share them, and where there are many, key by key as they are asked for (`_lent`).
Routing is small and is read as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from billing.models import Budget
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_loader._foreign import load_foreign
from llmgateway.config_loader._garbage import MANY, keep, no_collection
from llmgateway.config_loader._keys import AccessRules, load_keys, load_rules
from llmgateway.config_loader._lent import LentKeys, as_known, can_lend
from llmgateway.config_loader._load import (
    PEPPER,
    Pause,
    load_snapshot,
    newest_pepper,
    no_pause,
    pepper_problems,
)
from llmgateway.config_loader._quotas import PLACES, is_of_place, is_own, own_part, owner_of
from llmgateway.config_loader._reading import one_view
from llmgateway.config_loader._renewal import Renewal
from llmgateway.config_loader._routing import load_routing
from llmgateway.config_loader._settings import load_settings
from llmgateway.config_loader._sources import file_budgets, files_of, load_sources
from llmgateway.config_loader._values import SLICE
from llmgateway.limit_terms import OWNERS
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, KeyDigest, LogPosition, Snapshot

MOST_CHANGES = 10_000
"""With more, reading everything is quicker."""
LENT_FROM = MANY
"""With so many keys, what they have from others is exchanged when they are asked for."""
FILE = "file"
"""The table of a `Change` that is about a watched file; its row id is the path."""

ROUTING_TABLES = frozenset({
    "providers_provider", "providers_credential", "providers_deployment", "providers_modelalias",
    "providers_aliastarget", "providers_aliasfallback", "providers_aliasrule", "providers_catalogueentry",
    "billing_price", "llmgateway_gatewaysettings",
})  # fmt: skip
"""Settings are among them, for deployments know how tokens are estimated."""
KEY_TIES = frozenset({"llmgateway_keynetwork", "llmgateway_keytenant"})
QUOTA_TABLES = frozenset({"llmgateway_ratelimit", "billing_budget", "billing_budgetcredit"})


class Change(NamedTuple):
    """A row that changed, as the triggers noted it."""

    table: str
    row_id: str
    owner: str = ""
    """Whose rules the row belongs to: `key:5`, `team:3`, `provider:2`, and `budget:7` of a credit; empty: everyone's, or
    not a rule."""


class _UnclearChangeError(Exception):
    """What changed cannot be told from the entry."""


@dataclass(slots=True)
class _Plan:
    """What has to be done about some changes."""

    keys: set[int] = field(default_factory=set)
    teams: set[int] = field(default_factory=set)
    lists: set[int] = field(default_factory=set)
    budgets: set[int] = field(default_factory=set)
    """Those whose credit changed; whose they are has to be asked."""
    everyone: bool = False
    routing: bool = False
    sources: bool = False
    bans: bool = False

    @property
    def shared(self) -> bool:
        """Whether keys that did not change themselves are affected."""
        return bool(self.teams or self.lists or self.everyone)

    def add(self, change: Change) -> None:
        if change.table in ROUTING_TABLES:
            self.routing = True
        elif change.table == FILE:
            self.routing = self.sources = True
        elif change.table == "llmgateway_authsource":
            # Routing comes along for its part of the watched files.
            self.routing = self.sources = True
        elif change.table == "llmgateway_bannedkey":
            self.bans = True
        elif change.table == "llmgateway_apikey":
            self.keys.add(_number(change.row_id))
        elif change.table == "llmgateway_team":
            self.teams.add(_number(change.row_id))
        elif change.table == "llmgateway_networklist":
            self.lists.add(_number(change.row_id))
        elif change.table in KEY_TIES or change.table in QUOTA_TABLES:
            self.add_owner(change.owner)
        else:
            raise _UnclearChangeError(change.table)

    def add_owner(self, owner: str) -> None:
        kind, _, number = owner.partition(":")
        if kind == "key":
            self.keys.add(_number(number))
        elif kind == "team":
            self.teams.add(_number(number))
        elif kind == "budget":
            self.budgets.add(_number(number))
        elif kind in PLACES:
            self.routing = True
        elif not owner:
            self.everyone = True
        else:
            raise _UnclearChangeError(owner)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _UnclearChangeError(text) from None


def patch_snapshot(
    snapshot: Snapshot,
    changes: Collection[Change],
    *,
    revision: int,
    position: LogPosition | None = None,
    conf: Conf | None = None,
    pause: Pause = no_pause,
) -> Snapshot:
    """`snapshot` with `changes` applied; itself it stays as it is. What is unclear or too much reads everything.

    `position` is that of the log after `changes`.

    Raises:
        django.db.Error: the database cannot be read.
    """
    conf = conf or conf_module.conf
    try:
        plan = _plan(changes)
    except _UnclearChangeError:
        return load_snapshot(revision=revision, conf=conf, pause=pause, before=snapshot)
    with no_collection(), one_view():
        patched = _Patch(snapshot, plan, conf, pause).apply({(change.table, change.row_id) for change in changes})
    return replace(patched, revision=revision, position=position or snapshot.position)


def _plan(changes: Collection[Change]) -> _Plan:
    if len(changes) > MOST_CHANGES or any(not change.row_id for change in changes):
        raise _UnclearChangeError
    plan = _Plan()
    for change in changes:
        plan.add(change)
    return plan


class _Patch:
    """One application of a plan."""

    def __init__(self, old: Snapshot, plan: _Plan, conf: Conf, pause: Pause) -> None:
        self._old = old
        self._plan = plan
        self._conf = conf
        self._pause = pause
        self._problems: list[ConfigProblem] = []

    def apply(self, changed_rows: set[tuple[str, str]]) -> Snapshot:
        plan, new = self._plan, self._old
        self._find_owners_of_budgets()
        if plan.keys or plan.shared or plan.sources:
            new = self._with_access(new)
        if plan.routing:
            new = self._with_routing(new)
        if plan.routing or plan.everyone or plan.bans or plan.teams:
            new = replace(new, foreign=load_foreign())
        of_credits = {("billing_budget", str(budget_id)) for budget_id in plan.budgets}
        return replace(new, problems=self._all_problems(changed_rows | of_credits))

    def _find_owners_of_budgets(self) -> None:
        """What a budget's credit changes is a matter of the budget's owner. One that is gone was noted itself."""
        columns = [f"{owner}_id" for owner in OWNERS]
        for row_ids in Budget.objects.filter(pk__in=self._plan.budgets).values_list(*columns):
            self._plan.add_owner(owner_of(row_ids)[1])

    def _with_routing(self, new: Snapshot) -> Snapshot:
        settings = load_settings(self._conf, self._problems)
        routing = load_routing(self._problems, settings)
        return replace(
            new,
            aliases=routing.aliases,
            providers=routing.providers,
            deployments=routing.deployments,
            request_body_limit=settings.request_body_limit,
            retries=settings.retries,
            admission=settings.admission,
            circuit=settings.circuit,
            load=settings.load,
            cache=settings.cache,
            vendor_models=settings.vendor_models,
            budgets={row_id: rule for row_id, rule in new.budgets.items() if not is_of_place(rule)} | routing.budgets,
            watched_files=(*files_of(new.sources), *routing.files),
        )

    def _with_access(self, new: Snapshot) -> Snapshot:
        known = Snapshot(budgets=self._old.budgets)
        rules = load_rules(self._problems, self._plan.keys, before=known, pause=self._pause)
        if self._plan.keys:
            self._problems.extend(pepper_problems(self._conf))
        own_budgets, read_budgets = self._kept_budgets(), rules.all_budgets()
        keys = new.keys
        if self._plan.keys or self._plan.shared:
            keys = self._keys(rules, own_budgets)
        sources = new.sources
        if self._plan.sources or (self._plan.shared and files_of(sources)):
            sources = load_sources(rules, self._problems, pepper=newest_pepper(self._conf))
        of_places = {row_id: rule for row_id, rule in self._old.budgets.items() if is_of_place(rule)}
        budgets = own_budgets | read_budgets | of_places | file_budgets(sources)
        return replace(new, keys=keys, sources=sources, budgets=budgets)

    def _kept_budgets(self) -> dict[int, BudgetRule]:
        """The budgets of keys that are not read again."""
        read_again = {f"key:{key_id}" for key_id in self._plan.keys}
        return {
            rule.id: rule
            for rule in self._old.budgets.values()
            if is_own(rule) and rule.id > 0 and rule.owner not in read_again
        }

    def _keys(self, rules: AccessRules, own_budgets: dict[int, BudgetRule]) -> Mapping[bytes, KeyDigest]:
        old = self._old.keys
        keys = dict(as_known(old))
        changed = {str(key_id) for key_id in self._plan.keys}
        gone = [digest for digest, entry in keys.items() if entry.key.id in changed] if changed else ()
        for digest in gone:
            del keys[digest]
        read = load_keys(rules, self._problems, self._plan.keys, pause=self._pause)
        keys.update(read)
        renewal = self._renewal(rules)
        if renewal is None:
            return keys
        renewed = {}
        if isinstance(old, LentKeys) and not self._plan.shared:
            renewed = old.renewed.copy()
            for digest in gone:
                renewed.pop(digest, None)
        renewed.update(read)
        if len(keys) >= LENT_FROM and can_lend(keys, renewal):
            return LentKeys(keys, renewal, renewed=renewed, read=frozenset(read))
        self._renew(keys, renewal, renewed, own_budgets)
        return keys

    def _renewal(self, rules: AccessRules) -> Renewal | None:
        """Of what keys that are not read again have from others; None: none of it changed."""
        old, plan = self._old.keys, self._plan
        if not plan.shared:
            return old.renewal if isinstance(old, LentKeys) else None
        renewal = Renewal(rules, plan.teams, plan.lists, plan.everyone)
        return renewal.after(old.renewal) if isinstance(old, LentKeys) else renewal

    def _renew(
        self,
        keys: dict[bytes, KeyDigest],
        renewal: Renewal,
        renewed: Mapping[bytes, KeyDigest],
        own_budgets: dict[int, BudgetRule],
    ) -> None:
        """Renew all `keys` but those in `renewed`; budgets of their own that changed go to `own_budgets`."""
        exchanged = 0
        for number, (digest, entry) in enumerate(list(keys.items())):
            if number % SLICE == 0:
                self._pause()
            if digest in renewed:
                keys[digest] = renewed[digest]
                continue
            key = renewal.renewed(entry.key)
            if key is None:
                del keys[digest]
            elif key is not entry.key:
                keys[digest] = KeyDigest(key, entry.valid_until)
                if key.budgets is not entry.key.budgets:
                    own_budgets.update((rule.id, rule) for rule in own_part(key.budgets))
                exchanged += 1
        keep(exchanged)

    def _all_problems(self, changed_rows: set[tuple[str, str]]) -> tuple[ConfigProblem, ...]:
        """Those of rows that were not read again, and those found now."""
        kept = (problem for problem in self._old.problems if not self._is_settled(problem, changed_rows))
        return tuple(dict.fromkeys((*kept, *self._problems)))

    def _is_settled(self, problem: ConfigProblem, changed_rows: set[tuple[str, str]]) -> bool:
        plan = self._plan
        if problem.table in ROUTING_TABLES:
            return plan.routing
        if problem.table == "llmgateway_authsource":
            return plan.sources or plan.shared
        if problem.table == "llmgateway_apikey":
            return bool(plan.keys) if problem.name.startswith(PEPPER) else _is_among(problem.row_id, plan.keys)
        return (problem.table, problem.row_id) in changed_rows


def _is_among(row_id: str, ids: set[int]) -> bool:
    return row_id.isdigit() and int(row_id) in ids

"""What counters start from: for each budget, and each limit over a window, what the ledger says it has used.

Limits per minute start full and slots of concurrency free; neither outlives a minute or a process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import msgspec
from msgspec import structs

from billing.standing import BySubject, Tally, Used, used
from billing.windows import load_zone, reset_bounds, window_bounds
from llmgateway.config_loader import LentKeys, exchanged
from llmgateway.pipeline.protocols import AdmissionStore
from llmgateway.pipeline.rules import address_subject, bind_limit
from llmgateway.pipeline.snapshot import BudgetRule, KeyDigest, Limit, Snapshot

OWNER_COLUMNS = {
    "key": "key_id",
    "team": "team_id",
    "provider": "provider",
    "deployment": "deployment",
    "alias": "alias",
}
SCOPE_COLUMNS = {**OWNER_COLUMNS, "model": "alias", "global": ""}
SUBJECT_COLUMNS = {"": "", "ip": "client_ip", "end_user": "end_user", "model": "alias"}

Rule = TypeVar("Rule", BudgetRule, Limit)
Seed = tuple[Rule, float, int]
"""The rule, bound to its subject; the start of its window; what was used in it."""


@dataclass(slots=True)
class Seeds:
    """What counters begin with."""

    budgets: list[Seed[BudgetRule]] = field(default_factory=list)
    limits: list[Seed[Limit]] = field(default_factory=list)

    def sow(self, store: AdmissionStore) -> None:
        """Counters begin at nothing by themselves, and most of a hundred thousand do."""
        for budget, start, settled in self.budgets:
            if settled:
                store.seed(budget, window_start=start, settled_pico_usd=settled)
        for limit, start, amount in self.limits:
            if amount:
                store.seed_limit(limit, window_start=start, used=amount)


class WindowLimit(msgspec.Struct, frozen=True, gc=False):
    """A limit over a calendar window or a total, and what it counts."""

    limit: Limit
    column: str
    owner: str
    without: frozenset[str] = frozenset()
    """Aliases for which another limit of the same owner stands in its place."""

    @property
    def sums(self) -> tuple[object, ...]:
        """What it counts. A limit of which only the amount was changed goes on counting the same."""
        limit = self.limit
        period = (limit.per, limit.time_zone, limit.starts_on, limit.reset_s, limit.anchor)
        return limit.counter, limit.metric, *period, limit.model, self.without, limit.each, self.column, self.owner


def window_limits(snapshot: Snapshot) -> dict[str, WindowLimit]:
    """Every limit of a snapshot that outlives a minute, by counter."""
    return _windows_of(chain.from_iterable(_callers_limits(snapshot))) | _places_windows(snapshot)


def limits_anew(old: Snapshot, new: Snapshot) -> list[WindowLimit]:
    """Limits of `new` that outlive a minute and are not in `old`, or sum something else there.

    Looks only at keys that were exchanged and, of these, at owners one of whose limits changed: all of a hundred
    thousand would take long to find, and as long to free, which stops every thread.
    """
    before, after = _changed_limits(old, new)
    known = _windows_of(before) | _places_windows(old)
    found = _windows_of(after) | _places_windows(new)
    fresh = {counter: each for counter, each in found.items() if _sums(known.get(counter)) != each.sums}
    if not fresh:
        return []
    # A key that is new, or in another team, has rules that others had before.
    owners = {each.limit.owner for each in fresh.values()}
    others = (limit for limits in _callers_limits(old) for limit in limits if limit.owner in owners)
    known = _windows_of(others) | _places_windows(old)
    return [each for counter, each in fresh.items() if _sums(known.get(counter)) != each.sums]


def _changed_limits(old: Snapshot, new: Snapshot) -> tuple[list[Limit], list[Limit]]:
    """All limits of owners one of whose limits is not what it was: as they were, and as they are."""
    before: dict[str, Limit] = {}
    after: dict[str, Limit] = {}
    for was, entry in _exchanged(old, new):
        earlier, later = was.key.limits if was else (), entry.key.limits
        if earlier != later:
            owners = {limit.owner for limit in later if limit not in earlier}
            owners |= {limit.owner for limit in earlier if limit not in later}
            before.update((limit.counter, limit) for limit in earlier if limit.owner in owners)
            after.update((limit.counter, limit) for limit in later if limit.owner in owners)
    return list(before.values()), list(after.values())


def _exchanged(old: Snapshot, new: Snapshot) -> Iterator[tuple[KeyDigest | None, KeyDigest]]:
    """Keys that are not the very same any more; of many whose shared rules changed, one of each team."""
    files = {source.name: source.keys for source in old.sources}
    pairs = [(files.get(source.name, {}), source.keys) for source in new.sources]
    for was, keys in ((old.keys, new.keys), *pairs):
        yield from exchanged(was, keys)


def _sums(limit: WindowLimit | None) -> tuple[object, ...]:
    return limit.sums if limit else ()


def _windows_of(limits: Iterable[Limit]) -> dict[str, WindowLimit]:
    """Those of callers that outlive a minute. Of each owner, all must be among them."""
    found: dict[str, WindowLimit] = {}
    for limit in limits:
        if _has_window(limit) and limit.counter not in found:
            kind, _, owner = limit.owner.partition(":")
            found[limit.counter] = WindowLimit(limit, OWNER_COLUMNS.get(kind, ""), owner)
    _leave_out_what_others_count(found)
    return found


def _places_windows(snapshot: Snapshot) -> dict[str, WindowLimit]:
    found: dict[str, WindowLimit] = {}
    for alias in snapshot.aliases.values():
        for limit in filter(_has_window, alias.limits):
            found[limit.counter] = WindowLimit(limit, "alias", alias.name)
        for deployment in alias.deployments:
            for limit in filter(_has_window, deployment.limits):
                of_provider = limit.scope == "provider"
                column, owner = ("provider", deployment.provider) if of_provider else ("deployment", deployment.name)
                found[limit.counter] = WindowLimit(limit, column, owner)
    return found


def _has_window(limit: Limit) -> bool:
    return limit.per not in {"", "minute"}


def _callers_limits(snapshot: Snapshot) -> Iterator[tuple[Limit, ...]]:
    """The limits of all keys. Keys without any of their own share one tuple, which comes once."""
    seen: set[int] = set()
    for keys in (snapshot.keys, *(source.keys for source in snapshot.sources)):
        if isinstance(keys, LentKeys):
            yield from keys.limits()
            continue
        for digest in keys.values():
            limits = digest.key.limits
            if limits and id(limits) not in seen:
                seen.add(id(limits))
                yield limits


def _leave_out_what_others_count(found: dict[str, WindowLimit]) -> None:
    """A limit for one model stands in place of its owner's general one, which then does not count that model."""
    models: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for each in found.values():
        if each.limit.model and not each.limit.shadow:
            models[_kind(each.limit)].add(each.limit.model)
    for counter, each in found.items():
        others = models.get(_kind(each.limit))
        if others and not each.limit.model:
            found[counter] = structs.replace(each, without=frozenset(others))


def _kind(limit: Limit) -> tuple[str, ...]:
    return limit.owner, limit.scope, limit.metric, limit.per, limit.each


def window_start(rule: BudgetRule | Limit, at: float) -> float:
    """When the rule's window that contains `at` began."""
    load_zone(rule.time_zone)
    if isinstance(rule, BudgetRule):
        return window_bounds(rule.window, rule.time_zone, at, starts_on=rule.starts_on)[0]
    if rule.per == "total" and rule.reset_s:
        return reset_bounds(rule.anchor, rule.reset_s, at)[0]
    return window_bounds(rule.per, rule.time_zone, at, starts_on=rule.starts_on)[0]


def new_time_zones(old: Snapshot, new: Snapshot) -> set[str]:
    """In which windows begin that `new` may have and `old` had not."""
    limits = {limit.time_zone for _, entry in _exchanged(old, new) for limit in entry.key.limits}
    places = {each.limit.time_zone for each in _places_windows(new).values()}
    return limits | places | {budget.time_zone for budget in new.budgets.values()}


def budget_tally(budget: BudgetRule, at: float) -> Tally:
    start = window_start(budget, at)
    if budget.each:
        kind, _, owner = budget.owner.partition(":")
        column = OWNER_COLUMNS.get(kind, "")
        return Tally(start, column, owner, each=SUBJECT_COLUMNS[budget.each], reserved=budget.strict)
    return Tally(start, SCOPE_COLUMNS[budget.scope], budget.scope_id, reserved=budget.strict)


def limit_tally(each: WindowLimit, at: float) -> Tally:
    limit = each.limit
    subject = SUBJECT_COLUMNS[limit.each]
    return Tally(window_start(limit, at), each.column, each.owner, limit.model, each.without, subject)


def seeds(
    budgets: Sequence[BudgetRule],
    limits: Sequence[WindowLimit],
    at: float,
    count: Callable[[Sequence[Tally]], list[BySubject]] = used,
) -> Seeds:
    """What each has used in its window that contains `at`. `count` sums tallies; it is called once.

    Raises:
        DatabaseError: the ledger cannot be read.
    """
    tallies = [budget_tally(budget, at) for budget in budgets] + [limit_tally(each, at) for each in limits]
    counted = count(tallies)
    found = Seeds()
    for budget, tally, by_subject in zip(budgets, tallies, counted, strict=False):
        for subject, one in _subjects(by_subject, budget.each):
            bound = structs.replace(budget, scope_id=subject) if budget.each else budget
            found.budgets.append((bound, tally.start, one.cost_pico_usd))
    later = zip(limits, tallies[len(budgets) :], counted[len(budgets) :], strict=True)
    for each, tally, by_subject in later:
        for subject, one in _subjects(by_subject, each.limit.each):
            bound_limit = bind_limit(each.limit, subject) if each.limit.each else each.limit
            found.limits.append((bound_limit, tally.start, one.amount(each.limit.metric)))
    return found


def _subjects(by_subject: BySubject, each: str) -> Iterable[tuple[str, Used]]:
    """As the hot path counts them: all addresses of one IPv6 network together."""
    if each != "ip":
        return by_subject.items()
    merged: BySubject = {}
    for address, one in by_subject.items():
        merged.setdefault(address_subject(address), Used()).add(one)
    return merged.items()


__all__ = [
    "Seeds",
    "WindowLimit",
    "budget_tally",
    "limit_tally",
    "limits_anew",
    "new_time_zones",
    "seeds",
    "window_limits",
    "window_start",
]

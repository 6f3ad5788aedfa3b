"""How many addresses and end users have counters of their own, and what those beyond share. No I/O.

Callers make names up, so there may be any number of them. Beyond the bound a name goes by one of a few counters that it
shares with others until that one is as if never used: memory is bounded, and whoever floods names lets nobody, least of
all himself, use more than a limit or budget allows. Nobody can choose with whom a name shares.
"""

from __future__ import annotations

from msgspec import structs

from llmgateway.pipeline.snapshot import BudgetRule, Limit

MOST_NAMES = 100_000
"""Counters of addresses and end users; some 60 MB with what else is kept of a name."""
SHARES = 1024
"""Counters of one rule that names beyond the bound share."""
NAMED = frozenset({"ip", "end_user"})
"""What callers make up. Models are an operator's."""


class Crowd:
    """Counts the counters of names."""

    __slots__ = ("most", "names")

    def __init__(self, most: int = MOST_NAMES) -> None:
        self.most = most
        self.names = 0

    @property
    def full(self) -> bool:
        return self.names >= self.most

    def add(self, rule: Limit | BudgetRule, name: str) -> None:
        """A counter of that name was made for the rule."""
        self.names += _is_own(rule, name)

    def remove(self, rule: Limit | BudgetRule, name: str) -> None:
        self.names -= _is_own(rule, name)


def _is_own(rule: Limit | BudgetRule, name: str) -> bool:
    return rule.each in NAMED and f":{rule.each}:" in name


def shared_limit(limit: Limit) -> Limit:
    """The limit, counted for all whose names share."""
    own = f":{limit.each}:"
    base = limit.counter.partition(own)[0]
    # No name can be spelled like it: theirs stand behind a colon.
    return structs.replace(limit, counter=f"{base}:{limit.each}~{hash(limit.counter) % SHARES}", each="")


def shared_name(budget: BudgetRule, name: str) -> str:
    """The window's name, `name` being that of the subject's own."""
    own = f"{budget.each}:{budget.scope_id}:"
    return name.replace(own, f"{budget.each}~{hash(budget.scope_id) % SHARES}:", 1)

"""Finds the links that would lead an alias back to itself. No row says such a thing by way of the admin, but SQL can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

Links = Mapping[int, Sequence[int]]
"""From an alias to those that it leads to."""


class Order(NamedTuple):
    """How aliases can be made, each after those that it leads to."""

    ids: tuple[int, ...]
    circles: tuple[tuple[int, ...], ...]
    """Chains that end where they begin. The last step of each must not be followed."""

    @property
    def closing(self) -> frozenset[tuple[int, int]]:
        """The steps that are left out."""
        return frozenset((circle[-2], circle[-1]) for circle in self.circles)


def order_of(ids: Iterable[int], links: Links) -> Order:
    """Walks from each alias as far as it leads, without recursion: chains may be long."""
    finished: dict[int, None] = {}
    circles: list[tuple[int, ...]] = []
    for start in ids:
        if start in finished:
            continue
        chain = {start: iter(links.get(start, ()))}
        while chain:
            at, steps = next(reversed(chain.items()))
            use = next((step for step in steps if step not in finished), None)
            if use is None:
                finished[at] = None
                del chain[at]
            elif use in chain:
                circles.append((*_from(use, chain), use))
            else:
                chain[use] = iter(links.get(use, ()))
    return Order(tuple(finished), tuple(dict.fromkeys(circles)))


def _from(start: int, chain: Iterable[int]) -> Iterator[int]:
    begun = False
    for each in chain:
        begun = begun or each == start
        if begun:
            yield each

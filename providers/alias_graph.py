"""Which alias leads to which: through targets, rules, fallbacks, mirrors and the embeddings of caches.

No alias may lead back to itself. What is switched off counts too, so that switching it on never makes a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, NamedTuple, TypeVar

from django.apps import apps
from django.core.exceptions import ValidationError

Node = TypeVar("Node", bound=Hashable)
_later: ContextVar[bool] = ContextVar("circles are looked for later", default=False)


class Link(NamedTuple):
    """One alias leads to another."""

    alias: int
    use: int
    through: str
    """For people: `target`, `rule vip`, `fallback`, `mirror`, `embeddings`."""


def refuse_circle(alias_id: int | None, use_id: int | None, field: str) -> None:
    """Raises ValidationError for `field` if the alias `use_id` is, or leads to, `alias_id`; the message names the chain."""
    if alias_id is None or use_id is None or _later.get():
        return  # Nothing can lead to a new alias yet.
    links = _chain(use_id, alias_id)
    if links is None:
        return
    ids = [alias_id, use_id, *(link.use for link in links)]
    model = apps.get_model("providers", "ModelAlias")
    names = dict(model.objects.filter(pk__in=ids).values_list("pk", "name"))
    raise ValidationError({field: circle_message([names.get(each, "?") for each in ids])})


@contextmanager
def circles_sought_later() -> Iterator[None]:
    """While many rows are written whose links are looked at together in the end."""
    token = _later.set(True)
    try:
        yield
    finally:
        _later.reset(token)


def stored_circles() -> list[list[str]]:
    """Chains of aliases that end where they begin, by name."""
    links: dict[int, list[int]] = {}
    for link in links_from():
        links.setdefault(link.alias, []).append(link.use)
    circles = order_of(sorted(links), links).circles
    if not circles:
        return []
    names = dict(apps.get_model("providers", "ModelAlias").objects.values_list("pk", "name"))
    return [[names.get(each, "?") for each in circle] for circle in circles]


def circle_message(names: list[str]) -> str:
    """What is wrong with a chain whose last name is its first."""
    return (
        f"{' → '.join(names)} is a circle: no alias may lead back to itself. Choose an alias that does not lead here."
    )


def _chain(start: int, goal: int) -> list[Link] | None:
    """The links from `start` to `goal`, the shortest way; none are needed if they are the same. None: there is no way."""
    came_by: dict[int, Link] = {}
    seen, front = {start}, {start}
    while front and goal not in seen:
        links = [link for link in links_from(front) if link.use not in seen]
        for link in links:
            came_by.setdefault(link.use, link)
        front = {link.use for link in links}
        seen |= front
    if goal not in seen:
        return None
    chain: list[Link] = []
    at = goal
    while at != start:
        chain.insert(0, came_by[at])
        at = came_by[at].alias
    return chain


def links_from(alias_ids: Collection[int] | None = None) -> Iterator[Link]:
    """Where these aliases lead to directly; without them, where all do. In the order in which targets, rules and
    fallbacks stand."""
    for name, column, through in (
        ("AliasTarget", "target_alias_id", "target"),
        ("AliasRule", "use_id", "rule"),
        ("AliasFallback", "use_id", "fallback"),
    ):
        rows = apps.get_model("providers", name).objects.order_by("alias_id", "position", "id")
        rows = rows.filter(**{f"{column}__isnull": False})
        if alias_ids is not None:
            rows = rows.filter(alias_id__in=alias_ids)
        for alias_id, use_id in rows.values_list("alias_id", column):
            yield Link(alias_id, use_id, through)
    for column, through in (("mirror_alias_id", "mirror"), ("cache_embeddings_id", "embeddings")):
        rows = apps.get_model("providers", "ModelAlias").objects.order_by("id").filter(**{f"{column}__isnull": False})
        if alias_ids is not None:
            rows = rows.filter(pk__in=alias_ids)
        for alias_id, use_id in rows.values_list("pk", column):
            yield Link(alias_id, use_id, through)


class Order(NamedTuple, Generic[Node]):
    """How aliases can be made, each after those that it leads to."""

    ids: tuple[Node, ...]
    circles: tuple[tuple[Node, ...], ...]
    """Chains that end where they begin. The last step of each must not be followed."""

    @property
    def closing(self) -> frozenset[tuple[Node, Node]]:
        """The steps that are left out."""
        return frozenset((circle[-2], circle[-1]) for circle in self.circles)


def order_of(ids: Iterable[Node], links: Mapping[Node, Sequence[Node]]) -> Order[Node]:
    """Walks from each alias as far as it leads, without recursion: chains may be long."""
    finished: dict[Node, None] = {}
    circles: list[tuple[Node, ...]] = []
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


def _from(start: Node, chain: Iterable[Node]) -> Iterator[Node]:
    begun = False
    for each in chain:
        begun = begun or each == start
        if begun:
            yield each

"""What a request names of the things that providers keep: files, cached contents, vector stores, earlier items.

Whoever has made one through the gateway has it for his team; a key of another team cannot use it by naming it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from llmgateway.api.native_kept import family_of, name_in_book
from llmgateway.pipeline.errors import NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.response_state import owner_of
from llmgateway.pipeline.snapshot import ForeignKey, Key, Snapshot
from providers.adapters.references import ids_in, paths_in

_LONG = 256 * 2**10
"""A body of more bytes is searched aside, so that nobody else waits for it."""
_AT_ONCE = 500
"""Ids that the book is asked for in one go."""


async def check_references(gateway: Gateway, key: Key, body: bytes) -> None:
    """Raises NotFoundError: `body` names what another team has made. Others of which nothing is known are the provider's.

    Callers who have but a key of their own are not asked: what such a key may reach, the provider knows.
    """
    if isinstance(key, ForeignKey) and key.is_stranger:
        return
    families = _families(gateway.snapshot)
    if len(body) > _LONG:
        named = await asyncio.to_thread(_named, body, families)
    else:
        named = _named(body, families)
    await refuse_foreign(gateway, owner_of(key), named)


async def refuse_foreign(gateway: Gateway, mine: Owner, named: dict[str, str]) -> None:
    """Raises NotFoundError for one that is another team's. `named`: as the request has it, by the name in the book."""
    names = list(named)
    for start in range(0, len(names), _AT_ONCE):
        known = await gateway.responses.book.owners(names[start : start + _AT_ONCE])
        for name, owner in known.items():
            if not owner.shares_with(mine):
                raise NotFoundError(
                    f"There is no '{named[name]}' that a key of your team has made through this gateway. Name one of "
                    "your own, or send the content itself.",
                    code="object_not_found",
                )


Families = Collection[tuple[str, frozenset[str]]]
"""Providers, and what each keeps in forms of its own."""


def _families(snapshot: Snapshot) -> Families:
    return {
        (each.provider, each.adapter.keeps_natively) for each in snapshot.deployments if each.adapter.keeps_natively
    }


def _named(body: bytes, families: Families) -> dict[str, str]:
    """What may be the name of an object in the book, and how the request calls it."""
    named: dict[str, str] = {}
    for object_id in ids_in(body):
        named[object_id] = object_id
        for provider, kept in families:
            named.update((name_in_book(provider, family, object_id), object_id) for family in kept)
    for path in paths_in(body):
        named.update(_at_path(path, families))
    return named


def _at_path(path: str, families: Families) -> Iterator[tuple[str, str]]:
    for provider, kept in families:
        found = family_of(kept, path)
        if found is not None and found.object_id:
            yield name_in_book(provider, found.name, found.object_id), path

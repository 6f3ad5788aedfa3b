"""What providers keep for callers in forms of their own: cached contents, batches of messages, conversations and the like.

Calls pass through as they are. What a team has made through the gateway no other team reaches by its id, or sees in a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from llmgateway.api.inbound_json import as_object
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import NotFoundError
from llmgateway.pipeline.protocols import ObjectBook, Owner

LONGEST_ID = 200
_RANDOM_ID = re.compile(r"[a-z]+[_-][A-Za-z0-9_-]{16,180}", re.ASCII)
_MADE_ELSEWHERE = frozenset({"chat/completions"})
"""Families whose objects are made by calls of models, of which nobody notes the ids."""


class NativeFamily(msgspec.Struct, frozen=True):
    """A path below a provider's prefix that leads to kept objects."""

    name: str
    """As in `Adapter.keeps_natively`."""
    object_id: str
    """Empty: all of them."""


def family_of(families: frozenset[str], path: str) -> NativeFamily | None:
    """Which of `families` a path without doubled slashes leads to, whatever stands before: versions, projects, `upload`."""
    segments = path.strip("/").split("/")
    folded = [segment.lower() for segment in segments]
    for name in families:
        words = name.lower().split("/")
        for start in range(len(segments) - len(words) + 1):
            if folded[start : start + len(words)] == words:
                rest = segments[start + len(words) :]
                return NativeFamily(name, rest[0].partition(":")[0] if rest else "")
    return None


class NativeObjects:
    """One call that leads to kept objects; becomes the call's `Settlement`."""

    def __init__(self, book: ObjectBook, mine: Owner, family: NativeFamily, method: str) -> None:
        self._book = book
        self._mine = mine
        self._family = family
        self._method = method

    async def check(self) -> None:
        """Raises NotFoundError: it is another team's, or may be. Others of which nothing is known are the provider's to judge."""
        if self._family.name in _MADE_ELSEWHERE:
            raise NotFoundError(
                f"What is stored below /{self._family.name} is not passed on, for the gateway cannot tell whose it is. "
                "Responses that are stored can be read: see /v1/responses.",
                code="object_not_found",
            )
        wanted = self._family.object_id
        if not wanted:
            return
        name = self._name(wanted)
        owner = (await self._book.owners([name])).get(name)
        if owner is not None and not owner.shares_with(self._mine):
            raise NotFoundError(
                f"There is no '{wanted[:LONGEST_ID]}' that a key of your team has made through this gateway.",
                code="object_not_found",
            )

    async def charge(self, call: Call, content: bytes) -> None:
        """Nothing: what such a call costs is told by its answer, if at all."""

    async def onward(self, content: bytes) -> bytes:
        answer = as_object(content)
        if answer is None:
            return content
        if self._method == "POST" and not self._family.object_id:
            made = [self._name(each) for each in _ids_of(answer)]
            await self._book.remember(made, self._mine)
            return content
        if self._method == "GET" and not self._family.object_id:
            return await self._cut(answer, content)
        return content

    async def _cut(self, answer: dict[str, Any], content: bytes) -> bytes:
        """A list without what other teams have made."""
        lists = {name: value for name, value in answer.items() if isinstance(value, list)}
        ids = {self._name(each) for items in lists.values() for item in items for each in _ids_of(item)}
        known = await self._book.owners(ids)
        foreign = {name for name, owner in known.items() if not owner.shares_with(self._mine)}
        if not foreign:
            return content
        cut = {
            name: [item for item in items if foreign.isdisjoint(map(self._name, _ids_of(item)))]
            for name, items in lists.items()
        }
        return msgspec.json.encode({**answer, **cut})

    def _name(self, object_id: str) -> str:
        return name_in_book(self._mine.provider, self._family.name, object_id)


def name_in_book(provider: str, family: str, object_id: str) -> str:
    """As an object is in the book. An id that callers may have chosen is unique within a family of one provider at most."""
    return object_id if _RANDOM_ID.fullmatch(object_id) else f"{provider}:{family}/{object_id}"[:LONGEST_ID]


def _ids_of(item: Any) -> Iterator[str]:
    """`id`, or the end of `name`; also of the one object within, where an answer has it so."""
    if not isinstance(item, dict):
        return
    for each in (item, item.get("file")):
        if isinstance(each, dict):
            for field in ("id", "name"):
                value = each.get(field)
                if isinstance(value, str) and value:
                    yield value.rpartition("/")[2]

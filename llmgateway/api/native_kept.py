"""What providers keep for callers in forms of their own: cached contents, batches of messages, conversations and the like.

Calls pass through as they are. What a team has made through the gateway no other team reaches by its id, or sees in a list.
Results of a batch are charged when they are seen first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from llmgateway.api.batch_charge import Results, charge
from llmgateway.api.inbound_json import as_object
from llmgateway.pipeline.batch_results import jobs_of
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.snapshot import ForeignKey
from providers.adapters.base import Adapter

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


def family_at(adapter: Adapter, path: str) -> NativeFamily | None:
    """Which family a path leads to, or makes something of."""
    for end, name in adapter.makes_natively.items():
        if path.lower().endswith(end.lower()):
            return NativeFamily(name, "")
    return family_of(adapter.keeps_natively, path)


class NativeObjects:
    """One call that leads to kept objects; becomes the call's `Settlement`."""

    def __init__(self, gateway: Gateway, mine: Owner, family: NativeFamily, method: str) -> None:
        self._gateway = gateway
        self._book = gateway.responses.book
        self._mine = mine
        self._family = family
        self._method = method
        self._is_known = False
        """It is known that the team has made what is asked for."""

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
        self._is_known = owner is not None
        if owner is not None and not owner.shares_with(self._mine):
            raise NotFoundError(
                f"There is no '{wanted[:LONGEST_ID]}' that a key of your team has made through this gateway.",
                code="object_not_found",
            )

    async def charge(self, call: Call, content: bytes) -> None:
        """Book results that an answer holds or shows. What else such a call costs is told by its answer, if at all."""
        if self._method != "GET" or isinstance(call.key, ForeignKey):
            return  # The provider bills whose key it is.
        results = await self._shown(content)
        if not results and self._family.object_id:
            name = self._name(self._family.object_id)
            results = [Results(name, content, (await self._book.models([name])).get(name, ""))]
        await charge(call, results, gateway=self._gateway, book=self._book, mine=self._mine)

    async def _shown(self, content: bytes) -> list[Results]:
        """Of batches that are shown with their results: their file has the same ones, if there is a file."""
        jobs = await asyncio.to_thread(jobs_of, content)
        known = await self._book.owners([self._name(job.id) for job in jobs])
        mine = [job for job in jobs if known.get(self._name(job.id), self._mine).shares_with(self._mine)]
        return [Results(job.file or self._name(job.id), job.lines, job.model) for job in mine]

    async def onward(self, content: bytes) -> bytes:
        answer = as_object(content)
        if answer is None:
            return content
        if self._method == "POST" and not self._family.object_id:
            made = [self._name(each) for each in _ids_of(answer)]
            await self._book.remember(made, self._mine)
        elif self._method == "GET" and self._family.object_id:
            await self._note_files([answer] if self._is_known else [])
        elif self._method == "GET":
            return await self._cut(answer, content)
        return content

    async def _note_files(self, batches: Sequence[dict[str, Any]]) -> None:
        """Files with results are the team's whose batch it is."""
        for batch in batches:
            files = [each if family == "" else self._name(each, family) for family, each in _files_of(batch)]
            await self._book.remember(files, self._mine, model=_model_of(batch))

    async def _cut(self, answer: dict[str, Any], content: bytes) -> bytes:
        """A list without what other teams have made."""
        lists = {name: value for name, value in answer.items() if isinstance(value, list)}
        ids = {self._name(each) for items in lists.values() for item in items for each in _ids_of(item)}
        known = await self._book.owners(ids)
        foreign = {name for name, owner in known.items() if not owner.shares_with(self._mine)}
        own = known.keys() - foreign
        listed = [item for items in lists.values() for item in items if isinstance(item, dict)]
        await self._note_files([item for item in listed if not own.isdisjoint(map(self._name, _ids_of(item)))])
        if not foreign:
            return content
        cut = {
            name: [item for item in items if foreign.isdisjoint(map(self._name, _ids_of(item)))]
            for name, items in lists.items()
        }
        return msgspec.json.encode({**answer, **cut})

    def _name(self, object_id: str, family: str = "") -> str:
        return name_in_book(self._mine.provider, family or self._family.name, object_id)


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


def _files_of(batch: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The files that a batch has made, and the family that they are in; empty: they are kept in OpenAI's form."""
    output = _within(_within(batch, "metadata"), "output")
    for family, value in (
        ("", batch.get("output_file")),
        ("", batch.get("error_file")),
        ("files", output.get("responsesFile")),
    ):
        if isinstance(value, str) and 0 < len(value) <= LONGEST_ID:
            yield family, value.rpartition("/")[2]


def _model_of(batch: dict[str, Any]) -> str:
    """Or the agent that answers for it."""
    said = batch.get("model") or batch.get("agent_id") or _within(batch, "metadata").get("model")
    return str(said or "").removeprefix("models/")


def _within(item: dict[str, Any], name: str) -> dict[str, Any]:
    value = item.get(name)
    return value if isinstance(value, dict) else {}

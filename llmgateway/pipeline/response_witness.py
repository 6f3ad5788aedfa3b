"""Stands between an answer of OpenAI's Responses and its client, and tells which response is to be kept. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.kept_turns import finished_answer
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.requests import Client
from llmgateway.pipeline.streaming import Answer
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter

Headers = Sequence[tuple[bytes, bytes]]
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Keeper(Protocol):
    """Who is told."""

    def held_elsewhere(self, ids: Sequence[str], owner: Owner) -> None: ...

    def keep(self, response_id: str, owner: Owner, *, previous_id: str, body: bytes, answer: bytes) -> None: ...


class ResponseWitness:
    """Watches the answer of one request whose caller has nothing against its being kept."""

    def __init__(self, keeper: Keeper, owner: Owner, previous_id: str, body: bytes) -> None:
        """`body` is what the caller sent: what was said before is kept already."""
        self._keeper = keeper
        self._owner = owner
        self._previous_id = previous_id
        self._body = body

    def client(self, client: Client, call: Call, answer: Answer) -> Client:
        deployment = call.progress.deployment
        if deployment is not None and answer.outgoing.translation is None:
            owner = msgspec.structs.replace(self._owner, provider=deployment.provider)
            return _ProviderWatch(client, self._keeper, owner)
        return _GatewayWatch(client, self._keeper, self._owner, self._previous_id, self._body)


class _Watch:
    """Passes everything on. What is new in an answer is looked at before the client has it, so that it can go on at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def start(self, status: int, headers: Headers, lines: HeaderLines = b"") -> None:
        await self._client.start(status, headers, lines)

    async def send(self, chunk: bytes, *, more: bool) -> None:
        self._look(chunk)
        await self._client.send(chunk, more=more)

    def send_now(self, chunk: bytes) -> bool:
        return False

    async def whole(self, status: int, body: bytes, headers: Headers, lines: HeaderLines = b"") -> None:
        if status < 300:
            self._look(body)
        await self._client.whole(status, body, headers, lines)

    async def error(self, error: GatewayError, lines: HeaderLines = b"") -> None:
        await self._client.error(error, lines)

    def _look(self, sent: bytes) -> None:
        raise NotImplementedError


class _Response(msgspec.Struct):
    id: Any = None
    store: Any = None
    response: _Response | None = None
    """Of an event."""


class _Item(msgspec.Struct):
    id: str = ""


class _Output(msgspec.Struct):
    output: list[_Item] = []
    response: _Output | None = None
    """Of an event."""


_decode = msgspec.json.Decoder(_Response).decode
_decode_output = msgspec.json.Decoder(_Output).decode
_ENDS = (b"response.completed", b"response.incomplete", b"response.failed")
_TAIL = 512
"""What is remembered of what was sent before: pieces can be as small as a byte, and an event begins before its mark."""
_CUT = 32
"""Bytes of the mark of the last event that can be in one piece, and the rest in the next."""


class _ProviderWatch(_Watch):
    """Looks for the ids that the provider keeps an answer and its items by: in the whole, or in the first and last event.

    What comes between is searched for the mark of the last event, and no more.
    """

    def __init__(self, client: Client, keeper: Keeper, owner: Owner) -> None:
        super().__init__(client)
        self._keeper = keeper
        self._owner = owner
        self._splitter: EventSplitter | None = EventSplitter()
        self._before = b""
        self._is_known = False
        self._is_ending = False
        self._is_done = False

    def _look(self, sent: bytes) -> None:
        if self._is_done:
            return
        if self._splitter is None:
            if not any(mark in self._before[-_CUT:] + sent for mark in _ENDS):
                self._before = (self._before + sent)[-_TAIL:]
                return
            self._is_ending = True
            # The comment ends what began before, of which nothing is known, and says that these are events.
            self._splitter, sent = EventSplitter(), b":\n\n" + self._before + sent
        try:
            events = [event.data for event in self._splitter.feed(sent)]
        except MalformedAnswerError:
            self._is_done = True  # An event beyond measure: nobody can go on from what cannot be read.
            return
        for content in events or [self._splitter.whole]:
            self._read(content)
        if self._is_known and not self._is_ending:
            self._splitter, self._before = None, sent[-_TAIL:]

    def _read(self, content: bytes) -> None:
        if not content or (self._is_known and not any(mark in content for mark in _ENDS)):
            return
        try:
            read = _decode(content)
        except _UNREADABLE:
            return  # not for us to judge: the client gets what the provider said
        read = read.response or read
        if not _is_id(read.id):
            return
        if read.store is False:
            self._is_done = True
            return
        items = _items(content)
        self._keeper.held_elsewhere([*([] if self._is_known else [read.id]), *items], self._owner)
        self._is_known = True
        self._is_done = bool(items)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _items(content: bytes) -> list[str]:
    """The ids of what an answer consists of."""
    try:
        read = _decode_output(content)
    except _UNREADABLE:
        return []
    return [item.id for item in (read.response or read).output if _is_id(item.id)]


class _GatewayWatch(_Watch):
    """Looks for the answer when it is complete."""

    def __init__(self, client: Client, keeper: Keeper, owner: Owner, previous_id: str, body: bytes) -> None:
        super().__init__(client)
        self._keeper = keeper
        self._owner = owner
        self._previous_id = previous_id
        self._body = body

    def _look(self, sent: bytes) -> None:
        found = finished_answer(sent)
        if found is not None:
            response_id, answer = found
            self._keeper.keep(response_id, self._owner, previous_id=self._previous_id, body=self._body, answer=answer)

"""One response of OpenAI's Responses as the gateway keeps it, and requests that go on from several of them. Pure.

Kept are the items that were sent, those that were answered, and the answer itself; compressed, for they are text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from providers.adapters.types import JSONObject

_ID = re.compile(rb'"id":"([^"\\]{1,200})"')
_END = re.compile(rb"event: response\.(?:completed|incomplete)\ndata: ([^\n]+)\n")
_ID_WITHIN = 400
"""Bytes at the beginning of an answer, or of the event that brings it, in which its id stands."""
_ITEM_IDS = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class Turn(msgspec.Struct, frozen=True):
    """One kept response, unpacked."""

    input: list[Any]
    """The items of its request, without those of the responses before."""
    response: JSONObject
    """As it was answered."""


class _Request(msgspec.Struct):
    input: Any = None


class _Event(msgspec.Struct):
    response: msgspec.Raw


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_turn = msgspec.json.Decoder(Turn).decode


def finished_answer(sent: bytes) -> tuple[str, bytes] | None:
    """The id and the JSON of a response that is complete, in what the client gets: an answer, or a piece of a stream.

    None: there is none in here. Our own writers have an event whole in one piece, and the id at its beginning.
    """
    if sent[:1] == b"{":
        found = _ID.search(sent, 0, _ID_WITHIN)
        return None if found is None else (found[1].decode(), sent)
    end = _END.search(sent)
    if end is None:
        return None
    found = _ID.search(end[1], 0, _ID_WITHIN)
    return None if found is None else (found[1].decode(), end[1])


def pack(request: bytes, answer: bytes) -> tuple[bytes, int]:
    """A turn out of the body that was sent and what `finished_answer` found, and its size before it was compressed."""
    if answer.startswith(b'{"type":"response.'):
        answer = bytes(msgspec.json.decode(answer, type=_Event).response)
    items = items_of(msgspec.json.decode(request, type=_Request).input)
    content = msgspec.json.encode({"input": items, "response": msgspec.Raw(answer)})
    return zlib.compress(content), len(content)


def unpack(packed: bytes, *, most_bytes: int) -> Turn:
    """Raises ValueError: it is larger than it may be, or no turn."""
    reading = zlib.decompressobj()
    try:
        content = reading.decompress(packed, most_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"a kept response cannot be read: {error}") from None
    if not reading.eof:
        raise ValueError(f"a kept response is not the {most_bytes} bytes that it was")
    return _decode_turn(content)


def items_of(value: Any) -> list[Any]:
    """The input of a request as items: a string is one message of the user."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    return value if isinstance(value, list) else []


def going_on(body: bytes, turns: Iterable[Turn]) -> bytes:
    """`body` with the whole conversation as its input, and without the reference to what was before."""
    fields = _decode_fields(body)
    fields.pop("previous_response_id", None)
    said: list[Any] = []
    for turn in turns:
        said += turn.input
        said += [as_input(item) for item in turn.response.get("output") or ()]
    asked = fields.get("input")
    said += items_of(None if asked is None else msgspec.json.decode(asked))
    return msgspec.json.encode({**fields, "input": said})


def as_input(item: Any) -> Any:
    """An item of an answer, to be sent back. Its id means something to whoever made it alone; thoughts need theirs."""
    if not isinstance(item, dict):
        return item
    left_out = {"status"} if item.get("type") == "reasoning" else {"status", "id"}
    return {name: value for name, value in item.items() if name not in left_out}


def input_items(turns: list[Turn]) -> list[JSONObject]:
    """All that the model was told for the last of `turns`, oldest first; every item has an id that stays the same."""
    listed: list[JSONObject] = []
    for turn in turns:
        response = str(turn.response.get("id", ""))
        listed += [
            _listed(item, f"{response.removeprefix('resp_')}{number:04d}")
            for number, item in enumerate(turn.input)
            if isinstance(item, dict)
        ]
        if turn is not turns[-1]:
            listed += [item for item in turn.response.get("output") or () if isinstance(item, dict)]
    return listed


def _listed(item: JSONObject, number: str) -> JSONObject:
    kind = item.get("type") or "message"
    content = item.get("content")
    told = {**item, "type": kind, "id": item.get("id") or f"{_ITEM_IDS.get(str(kind), 'item')}_{number}"}
    if kind == "message":
        told["status"] = item.get("status") or "completed"
        if isinstance(content, str):
            part = "output_text" if item.get("role") == "assistant" else "input_text"
            told["content"] = [{"type": part, "text": content}]
    return told

"""ASGI messages on their way between the server and the process that makes pages: each as its length and MessagePack.

Both ends are of one version: the process says which is its own before anything else. No Django here.
"""

from __future__ import annotations

import asyncio
import struct

import msgspec

from llmgateway.api.asgi_types import Message, Scope

_LENGTH = struct.Struct("!I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict)

_OF_SCOPE = (
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
    "client", "server", "subprotocols",
)  # fmt: skip
"""What the specification names. `state` and the extensions of our own server hold objects of its process."""
_OF_EXTENSIONS = ("websocket.http.response",)
_TUPLES = ("client", "server")


def frame(message: Message) -> bytes:
    packed = _encoder.encode(message)
    return _LENGTH.pack(len(packed)) + packed


def portable(scope: Scope) -> Scope:
    """What of `scope` another process can be told."""
    known = scope.get("extensions") or {}
    extensions = {name: known[name] for name in _OF_EXTENSIONS if name in known}
    return {**{name: scope[name] for name in _OF_SCOPE if name in scope}, "extensions": extensions}


async def read_frame(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None: the other end has gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return unpacked(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def unpacked(packed: bytes) -> Message:
    """The message, with the tuples that MessagePack does not know where ASGI has some."""
    message: Message = _decoder.decode(packed)
    if headers := message.get("headers"):
        message["headers"] = [tuple(pair) for pair in headers]
    for name in _TUPLES:
        if message.get(name) is not None:
            message[name] = tuple(message[name])
    return message

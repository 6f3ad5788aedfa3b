"""AWS's binary event streams, cut however they come: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html.

A message is its length, the length of its headers and a checksum of both; the headers; the payload; a checksum of all.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

from providers.adapters.errors import MalformedAnswerError

PRELUDE = 12
CHECKSUM = 4
MAX_MESSAGE = 24 * 1024 * 1024
"""More than AWS ever sends in one message: a length beyond it is no length."""

_STRING = 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of the values of header types that have a fixed length."""


class Message(msgspec.Struct, frozen=True):
    headers: dict[str, str]
    """Those that are text: `:message-type`, `:event-type`, `:exception-type`, `:content-type`."""
    payload: bytes


class MessageSplitter:
    """Cuts messages out of one stream. What is incomplete waits for the rest."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that are complete now.

        Raises:
            MalformedAnswerError: these are no messages, or they were damaged on the way.
        """
        self._buffer += chunk
        position = 0
        try:
            while len(self._buffer) - position >= PRELUDE:
                length = _message_length(self._buffer, position)
                if len(self._buffer) - position < length:
                    return
                message = bytes(self._buffer[position : position + length])
                position += length
                yield _message(message)
        finally:
            del self._buffer[:position]

    @property
    def pending(self) -> bool:
        """A message has begun and is not complete."""
        return bool(self._buffer)


def _message_length(buffer: bytearray, position: int) -> int:
    length, headers, checksum = struct.unpack_from(">III", buffer, position)
    if zlib.crc32(buffer[position : position + 8]) != checksum:
        raise MalformedAnswerError("the checksum of an event's prelude is wrong")
    if not PRELUDE + headers + CHECKSUM <= length <= MAX_MESSAGE:
        raise MalformedAnswerError(f"an event says that it has {length} bytes, {headers} of them headers")
    return int(length)


def _message(message: bytes) -> Message:
    (checksum,) = struct.unpack_from(">I", message, len(message) - CHECKSUM)
    if zlib.crc32(message[:-CHECKSUM]) != checksum:
        raise MalformedAnswerError("the checksum of an event is wrong")
    (headers_length,) = struct.unpack_from(">I", message, 4)
    body = PRELUDE + headers_length
    try:
        headers = dict(_headers(message[PRELUDE:body]))
    except (IndexError, struct.error, KeyError, UnicodeDecodeError):
        raise MalformedAnswerError("the headers of an event cannot be read") from None
    return Message(headers, message[body:-CHECKSUM])


def _headers(data: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(data):
        name_end = position + 1 + data[position]
        name, kind = data[position + 1 : name_end].decode(), data[name_end]
        position = name_end + 1
        if kind in _SIZES:
            position += _SIZES[kind]
            continue
        if kind not in {_STRING, _STRING - 1}:
            raise KeyError(kind)
        (size,) = struct.unpack_from(">H", data, position)
        value = data[position + 2 : position + 2 + size]
        if len(value) < size:
            raise IndexError(size)
        position += 2 + size
        if kind == _STRING:
            yield name, value.decode()

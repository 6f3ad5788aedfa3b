"""AWS's binary event streams, cut anywhere and damaged anywhere."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters._aws_events import MAX_MESSAGE, Message, MessageSplitter
from providers.adapters.errors import MalformedAnswerError


def written(message: Message, odd: bytes = b"") -> bytes:
    """`message` on the wire; `odd` are headers that are no text."""
    headers = odd + b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in message.headers.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(message.payload), len(headers))
    start = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + message.payload
    return start + struct.pack(">I", zlib.crc32(start))


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
MESSAGES = st.builds(Message, st.dictionaries(NAMES, st.text(max_size=30), max_size=4), st.binary(max_size=200))


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 50))
def test_messages_survive_any_cut(messages: list[Message], size: int) -> None:
    stream = b"".join(map(written, messages))
    splitter = MessageSplitter()

    found = [message for at in range(0, len(stream), size) for message in splitter.feed(stream[at : at + size])]

    assert found == messages
    assert not splitter.pending


def test_headers_that_are_no_text_are_passed_over() -> None:
    odd = b"\x01t\x00" + b"\x01n\x04\x00\x00\x00\x01" + b"\x01b\x06\x00\x02xy" + b"\x01u\x09" + bytes(16)
    message = Message({":event-type": "chunk"}, b"{}")

    assert list(MessageSplitter().feed(written(message, odd))) == [message]


@given(st.integers(min_value=0), st.integers(1, 255))
def test_damage_is_noticed(at: int, change: int) -> None:
    """One wrong byte is never taken for a message; at most it makes one wait for more."""
    stream = bytearray(written(Message({":event-type": "chunk"}, b'{"text":"Hello"}')))
    stream[at % len(stream)] ^= change

    with pytest.raises(MalformedAnswerError):
        list(MessageSplitter().feed(bytes(stream)))


def test_a_length_beyond_measure_is_no_length() -> None:
    prelude = struct.pack(">II", MAX_MESSAGE + 1, 0)

    with pytest.raises(MalformedAnswerError, match="bytes"):
        list(MessageSplitter().feed(prelude + struct.pack(">I", zlib.crc32(prelude))))


def test_what_is_cut_off_is_pending() -> None:
    splitter = MessageSplitter()

    assert list(splitter.feed(written(Message({}, b"x"))[:-1])) == []
    assert splitter.pending

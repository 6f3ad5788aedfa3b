"""What is said between the server and the process that makes pages arrives as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgateway.pages.frames import frame, portable, read_frame

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ADDRESSES = st.none() | st.tuples(TEXT, st.none() | st.integers(0, 65535))
HEADERS = st.lists(st.tuples(st.binary(), st.binary()))
SCOPES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["http", "websocket"]),
        "asgi": st.just({"version": "3.0", "spec_version": "2.4"}),
        "http_version": st.sampled_from(["1.0", "1.1", "2"]),
        "method": st.sampled_from(["GET", "POST"]),
        "scheme": TEXT,
        "path": TEXT,
        "raw_path": st.binary(),
        "query_string": st.binary(),
        "root_path": TEXT,
        "headers": HEADERS,
        "client": ADDRESSES,
        "server": ADDRESSES,
        "subprotocols": st.lists(TEXT),
    }
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"type": st.just("http.request"), "body": st.binary(), "more_body": st.booleans()}),
    st.fixed_dictionaries(
        {"type": st.just("http.response.start"), "status": st.integers(100, 599), "headers": HEADERS}
    ),
    st.fixed_dictionaries({"type": st.just("websocket.receive"), "text": st.none() | TEXT, "bytes": st.none() | st.binary()}),
    st.fixed_dictionaries({"type": st.just("websocket.close"), "code": st.integers(1000, 4999), "reason": TEXT}),
)  # fmt: skip


async def read_all(said: bytes, cut: int) -> list[Any]:
    """What is heard where the bytes come in pieces of `cut`."""
    reader = asyncio.StreamReader()
    heard = []

    async def listen() -> None:
        while (message := await read_frame(reader)) is not None:
            heard.append(message)

    listening = asyncio.create_task(listen())
    for start in range(0, len(said), cut):
        reader.feed_data(said[start : start + cut])
        await asyncio.sleep(0)
    reader.feed_eof()
    await listening
    return heard


@given(scope=SCOPES, messages=st.lists(MESSAGES, max_size=4), cut=st.integers(1, 200))
def test_what_was_said_is_heard_however_it_is_cut(scope: Any, messages: list[Any], cut: int) -> None:
    told = [portable(scope), *messages]

    heard = asyncio.run(read_all(b"".join(map(frame, told)), cut))

    assert heard == [{**scope, "extensions": {}}, *messages]
    assert type(heard[0]["client"]) is type(scope["client"])


@given(message=MESSAGES, missing=st.integers(1, 30))
def test_half_a_message_is_none(message: Any, missing: int) -> None:
    assert asyncio.run(read_all(frame(message)[:-missing], 7)) == []


def test_objects_of_the_server_stay_there() -> None:
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/ws",
        "state": {"pool": object()},
        "extensions": {"websocket.http.response": {}, "llmgateway.known_head": object()},
        "app": object(),
    }

    assert portable(scope) == {"type": "websocket", "path": "/ws", "extensions": {"websocket.http.response": {}}}


@pytest.mark.parametrize("body", [bytearray(b"piece"), memoryview(b"piece")], ids=["bytearray", "memoryview"])
async def test_a_body_may_be_any_kind_of_bytes(body: Any) -> None:
    [heard] = await read_all(frame({"type": "http.response.body", "body": body}), 100)

    assert heard["body"] == b"piece"

"""Answers that come compressed unasked are read all the same, whole and streamed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
EVENTS = (
    b"".join(
        b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in (
            {"choices": [{"index": 0, "delta": {"content": "Grüße 🎉"}}]},
            {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}},
        )
    )
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_whole_answer_is_read_and_metered(encoding: str) -> None:
    body = PACKERS[encoding](json.dumps(CHAT).encode())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    house = House(ScriptedUpstream(Reply(200, headers, (body,))))

    answer = await house.chat()

    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert "content-encoding" not in answer.headers
    assert (house.row["usage_source"], house.row["input"], house.row["output"]) == ("provider", 11, 5)


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_stream_is_read_however_it_is_cut(encoding: str, size: int) -> None:
    packed = PACKERS[encoding](EVENTS)
    pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
    headers = {"content-type": "text/event-stream", "content-encoding": encoding.upper()}
    house = House(ScriptedUpstream(Reply(200, headers, pieces)))

    answer = await house.chat({"stream": True, "stream_options": {"include_usage": True}})

    assert answer.content == EVENTS
    assert (house.row["usage_source"], house.row["output"]) == ("provider", 5)


async def test_an_error_is_read_as_well() -> None:
    body = gzip.compress(b'{"error":{"message":"no","code":"context_length_exceeded"}}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    house = House(ScriptedUpstream(Reply(400, headers, (body,))))

    answer = await house.chat()

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no")
    assert house.row["error_type"] == "context_too_long"


async def test_an_encoding_that_is_a_lie_leaves_the_next_target_a_chance_and_is_no_answer() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    house = House(ScriptedUpstream(*[Reply(200, headers, (b"not gzip",))] * 3))

    answer = await house.chat()

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_connection_failed")


async def test_identity_is_no_encoding() -> None:
    headers = {"content-type": "application/json", "content-encoding": "identity"}
    house = House(ScriptedUpstream(Reply(200, headers, (json.dumps(CHAT).encode(),))))

    assert (await house.chat()).status_code == 200

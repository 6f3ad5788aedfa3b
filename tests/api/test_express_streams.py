"""Streams on the short way: what passes from connection to connection says and costs what it does in a task."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.pipeline.snapshot import Timeouts
from tests.api.express_scene import EVENTS, HANG, OK, QUESTION, ROLE, STREAM, chunked, opened, until
from tests.api.test_express import long_way, settled, timeless
from tests.gateways import SECRET

ERROR = b'data: {"error":{"message":"too much","code":503}}\n\n'


@pytest.mark.parametrize(
    "asked", [{}, {"stream_options": {"include_usage": True}}], ids=["without-usage", "with-usage"]
)
async def test_a_stream_flows_and_is_booked_as_on_the_long_way(asked: dict[str, Any]) -> None:
    async with opened(STREAM, STREAM) as scene:
        ours = await scene.ask(stream=True, **asked)
        theirs = await long_way(scene, stream=True, **asked)

        assert scene.express == ["taken"]
        assert (b"usage" in ours.content) is bool(asked)
        assert ours.content == theirs.content
        assert ours.content.endswith(b"data: [DONE]\n\n")
        assert sorted(ours.headers) == sorted(theirs.headers)
        assert scene.upstream.bodies[-2] == scene.upstream.bodies[-1]
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)
        assert (one["status"], one["input"], one["output"], one["usage_source"]) == ("completed", 11, 5, "provider")
        assert one["ttft_us"] is not None
        assert (await scene.ask()).status_code == 200
        assert scene.express == ["taken", "taken"]
        assert len(scene.upstream.gone) == 1, "the connection upstream was kept"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(chunked(ROLE, EVENTS), id="that-waits-after-the-role"),
        pytest.param(chunked(b": still here\n\n", ROLE, EVENTS[:30], EVENTS[30:]), id="in-torn-pieces"),
        pytest.param([b"".join(chunked(ROLE, EVENTS))], id="at-once"),
        pytest.param(chunked(ERROR), id="of-an-error"),
        pytest.param(chunked(EVENTS[:50], ERROR), id="with-an-error-in-it"),
        pytest.param(chunked(b"data: [DONE]\n\n"), id="of-nothing"),
        pytest.param(chunked(), id="without-a-piece"),
        pytest.param(chunked(EVENTS[:100]), id="without-its-end"),
        pytest.param([*chunked(EVENTS[:100], ends=False), b"zz\r\n"], id="that-breaks-off"),
        pytest.param([*chunked(EVENTS, ends=False), b"zz\r\n"], id="that-breaks-off-after-its-end"),
        pytest.param(chunked(b"data: {}\n\n" * 8000, EVENTS), id="that-says-nothing-for-long"),
        pytest.param(chunked(*[EVENTS[:60]] * 20, EVENTS), id="of-many-pieces"),
        pytest.param(OK, id="that-is-none"),
    ],
)
async def test_a_stream_tells_what_it_tells_on_the_long_way(said: Any) -> None:
    async with opened(said, said) as scene:
        ours = await scene.ask(stream=True)
        theirs = await long_way(scene, stream=True)

        assert scene.express == ["taken"]
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        one, other = await settled(scene, 2)
        assert timeless(one) == timeless(other)


@given(cuts=st.lists(st.integers(1, 400), max_size=6))
@settings(max_examples=15, deadline=None)
def test_however_a_stream_is_cut_it_says_the_same(cuts: list[int]) -> None:
    whole = b"".join(chunked(ROLE, EVENTS))
    places = sorted({cut for cut in cuts if cut < len(whole)})
    pieces = [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]

    async def told() -> None:
        async with opened(pieces, pause_s=0.001) as scene:
            answer = await scene.ask(stream=True)
            assert answer.content == ROLE + EVENTS.replace(EVENTS.split(b"\n\n")[2] + b"\n\n", b"")
            assert [row["output"] for row in await settled(scene)] == [5]

    asyncio.run(told())


async def test_a_client_that_leaves_a_stream_closes_the_upstream_and_pays_for_what_came() -> None:
    async with (
        opened([*chunked(EVENTS[:60], ends=False), HANG]) as scene,
        scene.client.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as told,
    ):
        assert (await anext(told.aiter_raw())) == EVENTS.partition(b"\n\n")[0] + b"\n\n"

        await told.aclose()

        async with asyncio.timeout(0.2):
            await asyncio.gather(*[gone.wait() for gone in scene.upstream.gone])
        (row,) = await settled(scene)
        assert scene.express == ["taken"]
        assert (row["status"], row["error_type"], row["usage_source"]) == ("cancelled", "client_left", "estimated")
        assert row["output"] >= 1


async def test_a_stream_that_falls_silent_is_broken_off_in_time() -> None:
    async with opened([*chunked(EVENTS[:60], ends=False), HANG], timeouts=Timeouts(idle_s=0.2)) as scene:
        before = asyncio.get_running_loop().time()
        told = await scene.ask(stream=True)

        assert asyncio.get_running_loop().time() - before < 0.2 * 2
        assert scene.express == ["taken"]
        assert b"upstream_timeout" in told.content
        (row,) = await settled(scene)
        assert (row["status"], row["error_type"]) == ("failed", "upstream_timeout")


async def test_a_slow_reader_gets_all_of_a_long_stream() -> None:
    event = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 60_000)
    async with (
        opened(chunked(*[event] * 60, EVENTS)) as scene,
        scene.client.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as told,
    ):
        await asyncio.sleep(0.2)
        size = sum([len(piece) async for piece in told.aiter_raw()])

        assert scene.express == ["taken"]
        assert size == 60 * len(event) + len(EVENTS) - len(EVENTS.split(b"\n\n")[2]) - 2
        (row,) = await settled(scene)
        assert (row["status"], row["output"]) == ("completed", 5)


async def test_a_client_that_says_no_more_and_reads_slowly_gets_no_stream_with_a_hole_in_it() -> None:
    """What still waits for it keeps the connection for a while, in which nothing, or all, may follow."""
    events = [b'data: {"choices":[{"delta":{"content":"%03d%b"}}]}\n\n' % (n, b"x" * 3000) for n in range(60)]
    pieces = [part for event in events for part in (event, b": and ", b"so on\n\n")]
    async with opened(chunked(*pieces), pause_s=0.002) as scene:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, scene.address)
            await until(lambda: len(scene.state.connections) == 2)
            all_of_them = [each for each in scene.state.connections if isinstance(each, GatewayProtocol)]
            (server,) = [each for each in all_of_them if each.client == client.getsockname()]
            server.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            said, scene.upstream.script = scene.upstream.script, deque()
            for _ in range(2):
                await loop.sock_sendall(client, raw_request(QUESTION))
                while not (await loop.sock_recv(client, 65_536)).endswith(b"}"):
                    pass
            scene.upstream.script = said
            await loop.sock_sendall(client, raw_request({**QUESTION, "stream": True}))
            await until(lambda: server.unread > 15_000)
            assert server.express is not None

            client.shutdown(socket.SHUT_WR)
            await until(server.transport.is_closing)
            await asyncio.sleep(0.05)
            heard = b""
            while piece := await loop.sock_recv(client, 65_536):
                heard += piece

        numbers = [int(number) for number in re.findall(rb'"content":"(\d+)', heard)]
        assert numbers == list(range(len(numbers)))
        assert heard.count(b": and so on") in {len(numbers), len(numbers) - 1}
        await until(lambda: scene.house.gateway.turns.taken == 0)


def raw_request(question: dict[str, Any]) -> bytes:
    body = json.dumps(question).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {SECRET}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

"""Streams that go from the upstream's connection to the client's without waking anybody: the same bytes, the same books."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgateway.http import httpx
from llmgateway.pipeline import streaming
from llmgateway.pipeline.lean_transport import LeanBody, LeanTransport
from llmgateway.pipeline.snapshot import Timeouts
from tests.api.test_http_protocol import Parsed, Wire
from tests.fakes import ScriptedUpstream
from tests.gateways import SECRET, House, alias, deployment, snapshot
from tests.pipeline.test_streams import DONE, USAGE, event
from tests.pipeline.transports.contract_scene import CHUNKED, chunk
from tests.pipeline.transports.scripted import Peer, Script, Upstream, upstream

EVENTS = (event("Hel"), event("lo"), event(" you"), event(usage=USAGE), DONE)
STREAM = b"".join(EVENTS)
SHOWN = event("Hel") + event("lo") + event(" you") + DONE


def sending(*pieces: bytes, ended: bool = True) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED.replace(b"application/json", b"text/event-stream"), *map(chunk, pieces))
        if ended:
            await peer.send(b"0\r\n\r\n")
        await asyncio.sleep(0.005)

    return script


class Line:
    """A client's connection to a gateway that calls `server` by the lean transport."""

    def __init__(self, server: Upstream, **changes: Any) -> None:
        transport = LeanTransport(max_connections=4)
        way = cast("ScriptedUpstream", SimpleNamespace(transport=transport))
        base_url = f"http://127.0.0.1:{server.port}/v1"
        self.house = House(way, snapshot(alias("gpt", deployment(base_url=base_url, **changes))))
        self.wire = Wire(self.house.app)
        self.transport = transport

    def ask(self) -> None:
        body = json.dumps({"model": "gpt", "messages": [], "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
        self.wire.protocol.data_received(head % (SECRET.encode(), len(body)) + body)

    async def answered(self) -> Parsed:
        async with asyncio.timeout(5):
            data = await self.wire.send()
        await self.transport.aclose()
        return Parsed(data)

    async def until_written(self, part: bytes) -> None:
        async with asyncio.timeout(5):
            while part not in b"".join(self.wire.pipe.writes):  # noqa: ASYNC110  # Transports tell nobody.
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def flows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pieces were passed on without the task."""
    passed: list[int] = []
    real = streaming._Flow._pass  # What is tested is that this way is taken.

    def counted(self: object, piece: bytes) -> bool:
        goes_on = real(self, piece)  # type: ignore[arg-type]
        passed.append(goes_on)
        return goes_on

    monkeypatch.setattr(streaming._Flow, "_pass", counted)
    return passed


async def test_each_piece_goes_on_by_itself_and_the_row_is_that_of_any_stream(flows: list[int]) -> None:
    async with upstream(sending(*EVENTS)) as server:
        line = Line(server)
        line.ask()
        answer = await line.answered()

    assert answer.complete
    assert answer.body == SHOWN
    row = line.house.row
    assert (row["status"], row["input"], row["output"], row["usage_source"]) == ("completed", 9, 3, "provider")
    assert sum(flows) >= 1


async def test_the_row_is_written_before_the_last_word_goes_out() -> None:
    async with upstream(sending(*EVENTS, ended=False)) as server:
        line = Line(server)
        line.ask()
        await line.until_written(b"[DONE]")

        assert line.house.row["status"] == "completed"
        await line.answered()


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, len(STREAM) - 1), max_size=8), slow=st.lists(st.booleans(), max_size=12))
async def test_whatever_the_pieces_and_however_slow_the_reader(cuts: list[int], slow: list[bool]) -> None:
    places = [0, *sorted(set(cuts)), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    async with upstream(sending(*pieces)) as server:
        line = Line(server)
        line.ask()
        for is_slow in slow:
            (line.wire.protocol.pause_writing if is_slow else line.wire.protocol.resume_writing)()
            await asyncio.sleep(0)
        line.wire.protocol.resume_writing()
        answer = await line.answered()

    assert answer.body == SHOWN
    assert (line.house.row["output"], line.house.row["status"]) == (3, "completed")


async def test_while_the_client_does_not_read_nothing_is_sent_and_nothing_is_lost(flows: list[int]) -> None:
    many = [event(f"word {number} " + "x" * 4000) for number in range(200)]
    async with upstream(sending(event("first"), *many, DONE)) as server:
        line = Line(server)
        line.ask()
        await line.until_written(b"first")
        line.wire.protocol.pause_writing()
        await asyncio.sleep(0.02)
        sent = len(line.wire.pipe.writes)
        await asyncio.sleep(0.02)
        assert len(line.wire.pipe.writes) == sent
        line.wire.protocol.resume_writing()
        answer = await line.answered()

    assert answer.body == event("first") + b"".join(many) + DONE
    assert 0 in flows


async def test_a_stream_that_breaks_off_is_told_and_settled() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED.replace(b"application/json", b"text/event-stream"), chunk(EVENTS[0]), chunk(EVENTS[1]))
        await asyncio.sleep(0.01)
        peer.reset()

    async with upstream(script) as server:
        line = Line(server)
        line.ask()
        answer = await line.answered()

    assert b"broke off" in answer.body
    assert (line.house.row["status"], line.house.row["error_type"]) == ("failed", "upstream_error")


async def test_a_silent_upstream_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED.replace(b"application/json", b"text/event-stream"), chunk(EVENTS[0]), chunk(EVENTS[1]))
        await peer.closed()

    async with upstream(script) as server:
        line = Line(server, timeouts=Timeouts(idle_s=1))
        line.ask()
        await line.until_written(b"lo")
        line.house.clock.advance(2)
        line.house.gateway.exchanges.tick()
        answer = await line.answered()

    assert b"silent" in answer.body
    assert line.house.row["error_type"] == "upstream_timeout"


async def test_what_fails_while_a_piece_is_passed_on_is_the_requests_and_not_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    async with upstream(sending(EVENTS[0], *[event(str(number)) for number in range(50)], DONE)) as server:
        line = Line(server)
        line.ask()
        await line.until_written(b"Hel")
        monkeypatch.setattr(streaming._Flow, "_read", fail)
        await line.answered()

    assert line.house.row["error_type"] == "internal_error"


async def test_pieces_are_poured_until_no_more_are_wanted() -> None:
    async with upstream(sending(b"one", b"two", b"three")) as server:
        transport = LeanTransport(max_connections=1)
        request = httpx.Request("POST", server.url, content=b"{}")
        stream = (await transport.handle_async_request(request)).stream
        assert isinstance(stream, LeanBody)
        got: list[bytes] = []

        def into(piece: bytes) -> bool:
            got.append(piece)
            return False

        while await stream.pour(into):
            assert b"onetwothree".startswith(b"".join(got))
        assert b"".join(got) == b"onetwothree"
        await stream.aclose()
        await transport.aclose()


async def test_a_body_that_was_closed_pours_nothing() -> None:
    async with upstream(sending(b"one", ended=False)) as server:
        transport = LeanTransport(max_connections=1)
        stream = (await transport.handle_async_request(httpx.Request("POST", server.url, content=b"{}"))).stream
        assert isinstance(stream, LeanBody)
        await stream.aclose()

        with pytest.raises(httpx.ReadError, match="closed before its end"):
            await stream.pour(lambda _: True)
        await transport.aclose()

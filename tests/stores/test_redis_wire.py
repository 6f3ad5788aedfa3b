"""Bytes to Redis and answers from it, on a connection that the library has made."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest
import uvloop

from llmgateway.stores.redis_link import LinkLostError, RedisLink, _Batch
from llmgateway.stores.redis_wire import Script, Wire, packed
from tests.pipeline.transports.certificates import Authority


class Transport:
    """A socket's end that notes who listens."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written.append(data)


class Listening:
    """A wire, and what it told."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.answers: list[Any] = []
        self.ends: list[str] = []
        self.wire = Wire(connection(self.transport), on_answer=self.answers.append, on_end=self.ends.append)


def connection(transport: Any) -> Any:
    return SimpleNamespace(_writer=SimpleNamespace(transport=transport))


def test_a_call_is_written_as_the_library_writes_it() -> None:
    script = Script()

    for epoch, time in (("e1", b""), ("e1", b"17"), ("e22", b"")):
        words = "EVALSHA", "5" * 40, 1, "{gateway}:epoch", epoch, b"\x91\xc0\r\n", time
        assert script.packed("5" * 40, "{gateway}:epoch", epoch, b"\x91\xc0\r\n", time) == packed(words)


def test_answers_arrive_in_order_however_they_are_cut() -> None:
    listening = Listening()
    stream = b"$2\r\nab\r\n-EPOCH gone\r\n*2\r\n:1\r\n$-1\r\n#f\r\n"

    for number in range(len(stream)):
        listening.wire.data_received(stream[number : number + 1])

    first, error, *rest = listening.answers
    assert (first, rest) == (b"ab", [[1, None], False])
    assert isinstance(error, hiredis.ReplyError)
    assert str(error) == "EPOCH gone"
    assert listening.transport.protocol is listening.wire


def test_what_redis_says_unasked_answers_nobody() -> None:
    listening = Listening()

    listening.wire.data_received(b">2\r\n+invalidate\r\n*0\r\n+OK\r\n")

    assert listening.answers == [b"OK"]


def test_who_speaks_another_protocol_ends_the_connection_once() -> None:
    listening = Listening()

    listening.wire.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    listening.wire.data_received(b"+OK\r\n")
    listening.wire.connection_lost(None)

    assert listening.answers == []
    assert len(listening.ends) == 1
    assert "Protocol error" in listening.ends[0]


@pytest.mark.parametrize(
    ("cause", "reason"), [(None, "Redis closed it"), (ConnectionResetError("reset by peer"), "reset by peer")]
)
def test_an_end_says_why(cause: Exception | None, reason: str) -> None:
    listening = Listening()

    listening.wire.connection_lost(cause)

    assert listening.ends == [reason]


def test_a_wire_that_was_left_tells_nothing_more() -> None:
    listening = Listening()
    listening.wire.leave()

    listening.wire.data_received(b"+OK\r\n")
    listening.wire.connection_lost(ConnectionResetError())

    assert (listening.answers, listening.ends) == ([], [])


async def test_an_answer_that_cannot_be_read_leaves_nobody_waiting() -> None:
    link = RedisLink(
        "redis://127.0.0.1:1/0", namespace="t", timeout_s=1, on_connect=lambda: asyncio.sleep(0), on_lost=lambda: None
    )
    waits = asyncio.get_running_loop().create_future()
    link._pending.append(_Batch([("admit",), ("settle",)], [waits, None], 0.0))

    with pytest.raises(ValueError, match=r"MessagePack data is malformed|Input data was truncated"):
        link._receive(b"\xc1")

    with pytest.raises(LinkLostError, match="says nothing"):
        await waits
    assert link.waiting == 1, "what nobody waits for is sent again"


@asynccontextmanager
async def echoing(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that says `+PONG` to whatever it is sent, over TLS."""

    async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"+PONG\r\n")
        writer.close()

    server = await asyncio.start_server(pong, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_over_tls_is_taken_over_too(
    tmp_path: Path, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    authority = Authority(tmp_path)

    async def answers() -> list[Any]:
        async with echoing(authority.server("127.0.0.1")) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            wire = Wire(
                cast("Any", SimpleNamespace(_writer=writer)), on_answer=arrived.put_nowait, on_end=arrived.put_nowait
            )
            wire.write(packed(("PING",)))
            first = await arrived.get()
            writer.close()
            return [first, await arrived.get()]

    with asyncio.Runner(loop_factory=loops) as runner:
        assert runner.run(asyncio.wait_for(answers(), 10)) == [b"PONG", "Redis closed it"]

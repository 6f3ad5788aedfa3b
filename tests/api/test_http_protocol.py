"""The server's HTTP protocol, on a transport without sockets, beside uvicorn's own where both must say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from llmgateway.api.asgi_types import WHOLE_BODY, Message
from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.api.openai import CHAT
from llmgateway.api.responses import DisconnectWatch, Responder

App = Callable[[Any, Any, Any], Awaitable[None]]
GET = b"GET /path?q=1 HTTP/1.1\r\nHost: test\r\n\r\n"
OK: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5000), "sockname": ("192.0.2.9", 4000)})
        self.writes: list[bytes] = []
        self.closed = False
        self.aborted = False
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = self.closed = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Wire:
    """One connection to a server that runs `app`."""

    def __init__(
        self, app: App, kind: type[HttpToolsProtocol] = GatewayProtocol, *, keep_alive_s: int = 5, **beside: Any
    ) -> None:
        config = uvicorn.Config(
            cast("Any", app), http=kind, ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=keep_alive_s,
        )  # fmt: skip
        config.load()
        self.state = ServerState()
        self.pipe = Pipe()
        self.protocol = kind(config=config, server_state=self.state, app_state={}, **beside)
        self.protocol.connection_made(self.pipe)

    async def send(self, *pieces: bytes) -> bytes:
        """All that is written once every request is answered."""
        for piece in pieces:
            self.protocol.data_received(piece)
        while self.state.tasks:
            await asyncio.gather(*self.state.tasks)
            await asyncio.sleep(0)
        return b"".join(self.pipe.writes)

    def end(self) -> None:
        self.protocol.connection_lost(None)


def saying(*messages: Message) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


class Parsed:
    """An answer as a client reads it."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(data)
        self.status = parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.complete = True


async def test_head_and_body_leave_in_one_write() -> None:
    wire = Wire(saying(OK, body(b"hi")))

    answer = await wire.send(GET)

    assert wire.pipe.writes == [answer]
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize("head", [False, True])
async def test_an_answer_at_once_is_that_of_two_messages(head: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"x-request-id: 1\r\n", CHAT).whole(200, b"hi", [(b"x-a", b"b")])

    request = GET.replace(b"GET", b"HEAD") if head else GET
    ours, theirs = Wire(app), Wire(app, HttpToolsProtocol)

    assert await ours.send(request) == await theirs.send(request)
    assert len(ours.pipe.writes) == 1


async def test_pieces_at_once_are_those_of_messages() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        responder = Responder(send, b"", CHAT)
        await responder.start(200, [])
        await responder.send(b"one", more=True)
        await responder.send(b"two", more=True)
        await responder.send(b"", more=False)

    assert await Wire(app).send(GET) == await Wire(app, HttpToolsProtocol).send(GET)


async def test_a_piece_for_a_client_that_reads_slowly_waits() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        responder = Responder(send, b"", CHAT)
        await responder.start(200, [])
        await responder.send(b"one", more=True)
        wire.protocol.pause_writing()
        await responder.send(b"two", more=False)

    wire = Wire(app)
    wire.protocol.data_received(GET)
    await asyncio.sleep(0.01)
    assert len(wire.pipe.writes) == 1

    wire.protocol.resume_writing()
    assert (await wire.send()).endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize(("size", "waits"), [(70_000, True), (1_000, False)])
async def test_who_gets_a_large_answer_keeps_its_turn_until_it_has_taken_it(
    monkeypatch: pytest.MonkeyPatch, size: int, waits: bool
) -> None:
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        watch = DisconnectWatch(receive)
        await receive()
        watch.watch()
        await asyncio.sleep(0)
        await Responder(send, b"", CHAT).whole(200, b"x" * size, [])
        assert not watch.client_left
        done.set()

    def written(data: bytes) -> None:
        wire.pipe.writes.append(data)
        wire.protocol.pause_writing()

    wire = Wire(app)
    monkeypatch.setattr(wire.pipe, "write", written)
    wire.protocol.data_received(GET)
    await asyncio.sleep(0.01)
    assert done.is_set() is not waits

    wire.protocol.resume_writing()
    assert len((await wire.send()).partition(b"\r\n\r\n")[2]) == size
    assert done.is_set()


async def test_a_client_that_reads_slowly_is_waited_for() -> None:
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"", CHAT).whole(200, b"hi", [])
        done.set()

    wire = Wire(app)
    wire.protocol.pause_writing()
    wire.protocol.data_received(GET)
    await asyncio.sleep(0.01)
    assert not done.is_set()
    assert not wire.pipe.writes

    wire.protocol.resume_writing()
    assert (await wire.send()).endswith(b"\r\n\r\nhi")


async def test_pieces_of_a_stream_leave_when_they_are_sent() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    wire = Wire(saying(start, body(b"one", more=True), body(b"two", more=True), body(b"")))

    await wire.send(GET)

    assert wire.pipe.writes == [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        b"3\r\ntwo\r\n",
        b"0\r\n\r\n",
    ]


@pytest.mark.parametrize(
    "header",
    [
        (b"x-bad", b"a\r\nset-cookie: b"),
        (b"x-bad", b"a\nb"),
        (b"x-bad", b"a\rb"),
        (b"x-bad", b"a\0b"),
        (b"x bad", b"a"),
        (b"x-bad:", b"a"),
        (b"x-bad\r\nset-cookie", b"a"),
        (b"", b"a"),
    ],
)
async def test_no_header_makes_another(header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2"), header]}
    wire = Wire(saying(start, body(b"hi")))

    answer = await wire.send(GET)

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"x-bad" not in answer
    assert b"set-cookie" not in answer


async def test_values_may_hold_tabs_and_latin_letters() -> None:
    headers = [(b"Content-Length", b"2"), (b"X-Name", b"M\xfcller\tund"), (b"x-empty", b"")]
    wire = Wire(saying({"type": "http.response.start", "status": 200, "headers": headers}, body(b"hi")))

    assert b"\r\nx-name: M\xfcller\tund\r\nx-empty: \r\n\r\nhi" in await wire.send(GET)


@pytest.mark.parametrize("answer", [b"h", b"hi!"])
async def test_an_answer_that_is_not_as_long_as_it_says_is_cut(answer: bytes) -> None:
    wire = Wire(saying(OK, body(answer)))

    await wire.send(GET)

    assert wire.pipe.closed


async def test_nothing_follows_the_end_of_an_answer() -> None:
    wire = Wire(saying(OK, body(b"hi"), body(b"more")))

    assert (await wire.send(GET)).endswith(b"\r\n\r\nhi")


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await send(OK)
        await send(body(b"hi"))

    answer = await Wire(app).send(GET + b"GET /s%C3%A9cond HTTP/1.1\r\nHost: test\r\n\r\n")

    assert answer.count(b"\r\n\r\nhi") == 2
    assert paths == ["/path", "/sécond"]


async def test_a_body_that_came_whole_is_in_the_scope_and_can_be_received() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope["extensions"].get(WHOLE_BODY), await receive()))
        await send(OK)
        await send(body(b"hi"))

    await Wire(app).send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")

    assert seen == [b"hello", {"type": "http.request", "body": b"hello", "more_body": False}]


async def test_a_body_that_comes_in_pieces_is_received() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["extensions"].get(WHOLE_BODY))
        seen.extend([(await receive())["body"], (await receive())["body"]])
        await send(OK)
        await send(body(b"hi"))

    wire = Wire(app)
    wire.protocol.data_received(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhel")
    await asyncio.sleep(0)
    await wire.send(b"lo")

    assert seen == [None, b"hel", b"lo"]


async def test_who_waits_for_the_client_learns_that_it_left() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])

    wire = Wire(app)
    wire.protocol.data_received(GET)
    await asyncio.sleep(0)
    wire.end()
    await wire.send()

    assert seen == ["http.request", "http.disconnect"]


async def test_who_is_answered_learns_it_too_while_another_request_waits_behind() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        while seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])
        await send(OK)

    wire = Wire(app)
    wire.protocol.data_received(GET + b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0)
    wire.end()
    await asyncio.wait_for(wire.send(), 5)

    assert seen == ["/path", "http.request", "http.disconnect"]
    assert not wire.pipe.writes


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await send(OK)
        await send(body(b"hi"))

    wire = Wire(app, keep_alive_s=cast("int", 0.05))
    await wire.send(GET)
    wire.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0.12)
    assert not wire.pipe.closed

    gate.set()
    await wire.send()
    assert not wire.pipe.closed
    await asyncio.sleep(0.12)
    assert wire.pipe.closed


async def test_a_request_while_the_timer_runs_gives_the_connection_its_full_time() -> None:
    wire = Wire(saying(OK, body(b"hi")), keep_alive_s=cast("int", 0.2))
    await wire.send(GET)
    await asyncio.sleep(0.12)
    await wire.send(GET)
    await asyncio.sleep(0.12)
    assert not wire.pipe.closed

    await asyncio.sleep(0.15)
    assert wire.pipe.closed


async def test_a_shutdown_closes_idle_connections() -> None:
    wire = Wire(saying(OK, body(b"hi")))
    await wire.send(GET)

    wire.protocol.shutdown()

    assert wire.pipe.closed


_NAMES = st.sampled_from([b"x-a", b"X-B", b"content-type", b"vary", b"connection", b"date"])
_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=20).map(
        lambda text: text.encode("latin-1")
    ),
    st.sampled_from([b"close", b"keep-alive", b"Close, x", b""]),
)


@settings(max_examples=150, deadline=None)
@given(
    status=st.sampled_from([200, 201, 204, 304, 404, 500]),
    headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=6),
    pieces=st.lists(st.binary(max_size=50), max_size=4),
    says_length=st.booleans(),
    request=st.sampled_from(
        [
            GET,
            GET.replace(b"GET", b"HEAD"),
            GET.replace(b"1.1", b"1.0"),
            GET.replace(b"Host", b"Connection: close\r\nHost"),
        ]
    ),
)
def test_clients_read_what_uvicorn_would_have_sent(
    status: int, headers: list[tuple[bytes, bytes]], pieces: list[bytes], says_length: bool, request: bytes
) -> None:
    """Whatever the application answers, the bytes are those of uvicorn's own protocol."""
    if status in (204, 304):
        pieces = []
    if says_length:
        headers = [*headers, (b"Content-Length", b"%d" % sum(map(len, pieces)))]
    messages = [
        {"type": "http.response.start", "status": status, "headers": headers},
        *(body(piece, more=True) for piece in pieces),
        body(b""),
    ]

    async def both() -> list[tuple[bytes, bool]]:
        found = []
        for kind in (GatewayProtocol, HttpToolsProtocol):
            wire = Wire(saying(*messages), kind)
            found.append((await wire.send(request), wire.pipe.closed))
            wire.end()
        return found

    ours, theirs = asyncio.run(both())
    assert ours == theirs
    if not request.startswith(b"HEAD"):
        assert Parsed(ours[0]).body == b"".join(pieces)


async def test_answers_of_one_turn_leave_at_its_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"", CHAT).whole(200, b"hi", [])
        assert not wire.pipe.writes

    wire = Wire(app)

    assert (await wire.send(GET)).endswith(b"\r\n\r\nhi")
    assert len(wire.pipe.writes) == 1


async def test_an_answer_leaves_before_its_connection_is_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"", CHAT).whole(200, b"hi", [])
        wire.protocol.shutdown()
        assert wire.pipe.closed

    wire = Wire(app)

    assert (await wire.send(GET)).endswith(b"\r\n\r\nhi")


async def test_an_answer_leaves_before_the_client_is_known_to_be_gone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"", CHAT).whole(200, b"hi", [])
        wire.protocol.eof_received()
        wire.pipe.close()

    wire = Wire(app)

    assert (await wire.send(GET)).endswith(b"\r\n\r\nhi")


async def test_an_answer_leaves_before_the_complaint_about_what_follows() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Responder(send, b"", CHAT).whole(200, b"hi", [])
        wire.protocol.data_received(b"nonsense\r\n\r\n")

    wire = Wire(app)
    answer = await wire.send(GET)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.index(b"\r\n\r\nhi") < answer.index(b"HTTP/1.1 400 ")

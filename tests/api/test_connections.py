"""What clients may take without giving: connections, slow heads, bodies of nothing, answers that they do not read."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
from functools import partial
from typing import Any, cast

import pytest

from llmgateway.api import connections as module
from llmgateway.api.connections import SPARE, Bounds, Connections, Verdict
from llmgateway.api.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_WAITING, GatewayProtocol
from llmgateway.conf import Conf
from llmgateway.pipeline.snapshot import Networks
from tests.api.test_http_protocol import GET, OK, App, Parsed, Wire, body, saying

HELLO = saying(OK, body(b"hi"))
SHORT_S = 0.05


class Client(Wire):
    """One of several clients of one process."""

    def __init__(self, connections: Connections, app: App = HELLO) -> None:
        super().__init__(app, cast("Any", partial(GatewayProtocol, connections=connections)))

    def is_closed(self) -> bool:
        return self.pipe.closed

    def is_aborted(self) -> bool:
        return self.pipe.aborted

    @property
    def answer(self) -> Parsed:
        return Parsed(b"".join(self.pipe.writes))

    def say(self, data: bytes) -> None:
        if not self.is_closed():
            self.protocol.data_received(data)

    @property
    def code(self) -> str:
        return str(json.loads(self.answer.body)["error"]["code"])


@pytest.fixture
def connections() -> Connections:
    return Connections(Bounds(keep_alive_s=30, head_s=30, write_stall_s=30))


@pytest.fixture
def newcomers_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWCOMER_S", 0.0)


class TestTime:
    async def test_who_never_says_anything_is_closed(self) -> None:
        connections = Connections(Bounds(keep_alive_s=SHORT_S))
        client = Client(connections)

        await asyncio.sleep(3 * SHORT_S)

        assert (client.is_closed(), client.pipe.writes) == (True, [])
        assert connections.ended == {"idle": 1}

    @pytest.mark.parametrize("after", [b"", GET], ids=["first", "second"])
    async def test_a_head_that_trickles_is_answered_408(self, after: bytes) -> None:
        connections = Connections(Bounds(head_s=SHORT_S))
        client = Client(connections)
        if after:
            await client.send(after)
            client.pipe.writes.clear()

        for piece in (b"GE", b"T / HTTP/1.1\r\n", b"x-a: 1\r\n", b"x-b: ", b"2", b"\r\n"):
            client.say(piece)
            await asyncio.sleep(SHORT_S / 3)
        await asyncio.sleep(SHORT_S)

        assert (client.answer.status, client.code) == (408, "request_timeout")
        assert client.is_closed()
        assert connections.ended == {"slow_head": 1}

    async def test_empty_lines_are_no_request(self) -> None:
        connections = Connections(Bounds(head_s=SHORT_S))
        client = Client(connections)

        for _ in range(6):
            client.say(b"\r\n")
            await asyncio.sleep(SHORT_S / 2)

        assert client.is_closed()

    async def test_a_head_in_time_is_answered_whatever_follows(self) -> None:
        connections = Connections(Bounds(head_s=SHORT_S))
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await send(OK)
            await send(body(b"hi"))

        client = Client(connections, app)
        client.say(GET[:10])
        client.say(GET[10:])
        await asyncio.sleep(3 * SHORT_S)
        gate.set()

        assert (await client.send()).endswith(b"hi")
        assert not client.is_closed()

    async def test_a_next_head_that_begins_amid_an_answer_has_its_time_after_it(self) -> None:
        connections = Connections(Bounds(head_s=SHORT_S))
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await send(OK)
            await send(body(b"hi"))

        client = Client(connections, app)
        client.say(GET + b"GET /next HT")
        await asyncio.sleep(3 * SHORT_S)
        assert not client.is_closed()
        gate.set()
        await client.send()
        assert not client.is_closed()

        await asyncio.sleep(3 * SHORT_S)

        assert client.is_closed()
        assert b"".join(client.pipe.writes).count(b"HTTP/1.1 200") == 1

    async def test_a_body_that_nobody_reads_is_taken_in_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LEFTOVERS_S", SHORT_S)
        connections = Connections(Bounds(head_s=SHORT_S))
        client = Client(connections)
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\nx")
        assert client.answer.status == 200

        for _ in range(8):
            client.say(b"x")
            await asyncio.sleep(SHORT_S / 4)

        assert client.is_aborted()
        assert connections.ended == {"unread_body": 1}

    async def test_a_body_has_its_time_whoever_reads_it(self) -> None:
        connections = Connections(Bounds(body_s=SHORT_S))
        left: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            while message.get("more_body"):
                message = await receive()
            left.append(message["type"])

        client = Client(connections, app)
        client.say(b"POST /admin/ HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(10):
            client.say(b"x")
            await asyncio.sleep(SHORT_S / 2)

        assert client.is_aborted()
        assert connections.ended == {"slow_body": 1}
        client.end()
        await client.send()
        assert left == ["http.disconnect"]

    async def test_after_such_a_body_the_connection_goes_on(self, connections: Connections) -> None:
        client = Client(connections)
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nx")
        client.say(b"yz")
        assert connections.resting == 1
        assert {**connections.bodies, **connections.leftovers} == {}

        await client.send(GET)

        assert b"".join(client.pipe.writes).count(b"HTTP/1.1 200") == 2


class TestSize:
    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize(
        "lines",
        [
            b"x-large: " + b"a" * MAX_HEAD_BYTES + b"\r\n",
            b"".join(b"x-%d: %b\r\n" % (number, b"a" * 600) for number in range(150)),
            b"a: 1\r\n" * (MAX_HEADERS + 1),
        ],
        ids=["one", "many large", "many"],
    )
    async def test_a_head_that_is_too_large_is_answered_431(
        self, connections: Connections, lines: bytes, at_once: bool
    ) -> None:
        client = Client(connections)
        head = b"GET / HTTP/1.1\r\n" + lines + b"\r\n"
        size = len(head) if at_once else 1000

        for at in range(0, len(head), size):
            client.say(head[at : at + size])
        await client.send()

        assert (client.answer.status, client.code) == (431, "headers_too_large")
        assert client.is_closed()

    async def test_a_path_counts_too(self, connections: Connections) -> None:
        client = Client(connections)
        await client.send(b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n")

        assert client.answer.status == 431

    async def test_a_head_that_never_ends_is_not_kept(self, connections: Connections) -> None:
        client = Client(connections)
        client.say(b"GET / HTTP/1.1\r\nx-endless: ")
        pieces = 0
        while not client.is_closed():
            client.say(b"a" * 10_000)
            pieces += 1

        assert pieces <= MAX_HEAD_BYTES // 10_000 + 1
        assert client.answer.status == 431

    async def test_as_large_as_allowed_passes(self, connections: Connections) -> None:
        client = Client(connections)
        lines = b"".join(b"x-%d: %b\r\n" % (number, b"a" * 300) for number in range(MAX_HEADERS))

        assert (await client.send(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")).endswith(b"hi")

    async def test_a_large_body_with_its_head_is_no_large_head(self, connections: Connections) -> None:
        client = Client(connections)
        big = b"POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000

        await client.send(big + b"POST / HTTP/1.1\r\ncont", b"ent-length: 1\r\n\r\nx")

        assert b"".join(client.pipe.writes).count(b"HTTP/1.1 200") == 2

    @pytest.mark.parametrize("filling", [b";x=" + b"a" * 50_000, b"\r\n0\r\nx-trailer: " + b"a" * 50_000])
    async def test_what_surrounds_a_body_is_bounded(self, connections: Connections, filling: bytes) -> None:
        async def reading(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass

        client = Client(connections, reading)
        client.say(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0" if filling[:1] == b"\r" else b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1")  # fmt: skip
        for _ in range(8):
            client.say(filling if filling.startswith(b";") else b"a" * 50_000)
        await asyncio.sleep(0)

        assert client.is_closed()
        client.end()
        await client.send()

    async def test_trailers_are_not_headers(self, connections: Connections) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            seen.extend(name for name, _ in scope["headers"])
            await send(OK)
            await send(body(b"hi"))

        client = Client(connections, app)
        await client.send(
            b"POST / HTTP/1.1\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
            b"0\r\nauthorization: x\r\n\r\n",
        )

        assert seen == [b"x-a", b"transfer-encoding"]

    async def test_chunks_of_one_byte_are_allowed(self, connections: Connections) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            await send(OK)
            await send(body(b"hi"))

        client = Client(connections, app)
        client.say(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(200):
            client.say(b"1\r\nx\r\n" * 100)
            await asyncio.sleep(0)
        assert (await client.send(b"0\r\n\r\n")).endswith(b"hi")

    async def test_requests_that_wait_for_others_are_bounded(self, connections: Connections) -> None:
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()

        client = Client(connections, app)
        client.say(GET * (MAX_WAITING + 1))
        assert not client.is_aborted()

        client.say(GET)

        assert client.is_aborted()
        client.end()
        gate.set()
        await client.send()


class TestReading:
    async def test_who_does_not_read_is_cut_off(self) -> None:
        connections = Connections(Bounds(write_stall_s=SHORT_S))
        noticed: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            noticed.append((await receive())["type"])

        client = Client(connections, app)
        client.say(GET)
        client.pipe.unread = 70_000
        client.protocol.pause_writing()
        await asyncio.sleep(3 * SHORT_S)

        assert client.is_aborted()
        assert connections.ended == {"stalled": 1}
        client.end()
        await client.send()
        assert noticed == ["http.disconnect"]

    async def test_who_reads_slowly_is_not(self) -> None:
        connections = Connections(Bounds(write_stall_s=SHORT_S))
        client = Client(connections)
        client.pipe.unread = 1_000_000
        client.protocol.pause_writing()

        for _ in range(8):
            await asyncio.sleep(SHORT_S / 2)
            client.pipe.unread -= 1000

        assert not client.is_closed()

    async def test_who_reads_again_has_all_the_time_again(self) -> None:
        connections = Connections(Bounds(write_stall_s=SHORT_S))
        client = Client(connections)
        client.pipe.unread = 70_000
        client.protocol.pause_writing()
        client.protocol.resume_writing()
        await asyncio.sleep(3 * SHORT_S)

        assert not client.is_closed()


def holding() -> App:
    """Never answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return app


class TestNumbers:
    async def test_the_longest_silent_makes_room(self, newcomers_may_go: None) -> None:
        connections = Connections(Bounds(most=3))
        clients = [Client(connections) for _ in range(3)]
        await clients[0].send(GET)

        newcomer = Client(connections)

        assert [client.is_closed() for client in clients] == [False, True, False]
        assert (await newcomer.send(GET)).endswith(b"hi")
        assert connections.ended == {"crowded_out": 1}
        assert not connections.refused

    async def test_who_has_just_come_is_not_crowded_out(self) -> None:
        connections = Connections(Bounds(most=1))
        first = Client(connections)

        second = Client(connections)
        await second.send(GET)

        assert not first.is_closed()
        assert (second.answer.status, second.code) == (503, "overloaded")

    async def test_when_all_are_busy_newcomers_are_told_so(self) -> None:
        connections = Connections(Bounds(most=2))
        busy = [Client(connections, holding()) for _ in range(2)]
        for client in busy:
            client.say(GET)
        newcomer, operator = Client(connections), Client(connections)

        await newcomer.send(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        await operator.send(b"GET /health/live HTTP/1.1\r\n\r\n")

        assert (newcomer.answer.status, newcomer.code) == (503, "overloaded")
        assert (b"retry-after", b"1") in newcomer.answer.headers
        assert operator.answer.body == b"hi"
        assert (newcomer.is_closed(), operator.is_closed()) == (True, True)
        assert connections.refused == {"full": 2}
        for client in busy:
            client.end()
            await client.send()

    async def test_there_is_an_end_to_listening(self) -> None:
        connections = Connections(Bounds(most=1))
        first = Client(connections, holding())
        first.say(GET)
        heard = [Client(connections, holding()) for _ in range(SPARE)]
        for client in heard:
            client.say(b"GET /health HTTP/1.1\r\n\r\n")

        late = Client(connections)

        assert (late.answer.status, late.is_closed()) == (503, True)
        heard[0].end()
        assert not Client(connections).is_closed()
        for client in (first, *heard[1:]):
            client.end()
            await client.send()

    async def test_places_return(self) -> None:
        connections = Connections(Bounds(most=2, most_per_address=2))
        for _ in range(5):
            clients = [Client(connections) for _ in range(2)]
            assert [(await client.send(GET))[-2:] for client in clients] == [b"hi", b"hi"]
            for client in clients:
                client.end()

        assert (connections.open, connections.resting) == (0, 0)

    async def test_an_address_has_a_bound_of_its_own(self) -> None:
        connections = Connections(Bounds(most_per_address=2))
        clients = [Client(connections) for _ in range(3)]

        await clients[2].send(GET)

        assert (clients[2].answer.status, clients[2].code) == (429, "rate_limit_exceeded")
        assert connections.refused == {"address": 1}
        clients[2].end()
        clients[0].end()
        assert (await Client(connections).send(GET)).endswith(b"hi")

    async def test_proxies_have_none(self) -> None:
        connections = Connections(Bounds(most_per_address=1, not_counted=Networks.of(("192.0.2.0/24",))))
        clients = [Client(connections) for _ in range(5)]

        assert [(await client.send(GET))[-2:] for client in clients] == [b"hi"] * 5

    def test_files_remain_for_upstreams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def bound(files: int, **settings: str) -> int:
            monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
            return Bounds.of(Conf(settings)).most

        assert bound(20_000) == 20_000 - 2000 - 256 - SPARE
        assert bound(1024) == 512 - SPARE
        assert bound(20_000, MAX_CONNECTIONS="50") == 50
        assert bound(20_000, MAX_CONNECTIONS="90000") == 20_000 - 2000 - 256 - SPARE

    async def test_a_verdict_is_final(self) -> None:
        connections = Connections(Bounds(most=1))
        Client(connections)
        second = Client(connections)

        assert second.protocol._verdict is Verdict.HEARD  # type: ignore[attr-defined]  # ours


class TestMemory:
    # It collects garbage, that of tests before it included: what those left open is not its business.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_nothing_of_a_request_is_kept_while_the_client_is_silent(self, connections: Connections) -> None:
        class Marker(bytes):
            pass

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["marker"] = marked
            await receive()
            await send(OK)
            await send(body(b"hi"))

        marked = {"a": Marker()}
        client = Client(connections, app)
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60_000)
        await asyncio.sleep(0)

        gc.collect()
        holders = [each for each in gc.get_referrers(marked) if isinstance(each, dict) and "marker" in each]
        assert connections.resting == 1
        assert not holders
        assert client.protocol.cycle is None

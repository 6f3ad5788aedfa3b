"""Clients that are silent, slow to ask, slow to read, or too many: the others notice nothing, and the process stays small."""

from __future__ import annotations

import json
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, wait_for

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
BYTES_PER_CONNECTION = 24 * 1024
"""What an idle connection may cost; about 8 KB were seen after a chat, 3 KB before."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, running: tuple[Product, Provider]) -> Iterator[Product]:
    """A product in a hurry."""
    folder = tmp_path_factory.mktemp("hurry")
    settings = {"REQUEST_HEAD_TIMEOUT_S": "2", "WRITE_STALL_S": "2", "KEEP_ALIVE_S": "600"}
    with running_product(folder, running[1], **settings) as product:
        yield product


@pytest.fixture(autouse=True)
def more_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def plugs() -> Iterator[list[socket.socket]]:
    """Connections, closed at the end."""
    opened: list[socket.socket] = []
    yield opened
    for plug in opened:
        plug.close()


def connect(product: Product, *, receive_buffer: int = 0) -> socket.socket:
    plug = socket.socket()
    if receive_buffer:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plug.settimeout(10)
    plug.connect(("127.0.0.1", product.port))
    return plug


def asking(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return f"{head}authorization: Bearer {KEY}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


def memory(product: Product) -> int:
    """Resident bytes of the server process."""
    status = Path(f"/proc/{product.child.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


def processor_s(product: Product) -> float:
    """Processor time of the server process so far."""
    fields = Path(f"/proc/{product.child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def facts(product: Product) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{product.url}/health", timeout=10).json()
    return found


def metric(product: Product, line: str) -> float:
    page = httpx.get(f"{product.url}/metrics", timeout=10).text
    return next((float(each.rpartition(" ")[2]) for each in page.splitlines() if each.startswith(line)), 0.0)


def chats(product: Product, count: int) -> float:
    """The median of their seconds; every one is answered."""
    took = []
    with httpx.Client(base_url=product.url, headers={"authorization": f"Bearer {KEY}"}, timeout=10) as client:
        for _ in range(count):
            began = time.monotonic()
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
            took.append(time.monotonic() - began)
    return statistics.median(took)


class TestIdleConnections:
    @pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_they_cost_little_and_slow_nobody(
        self, own: Product, provider: Provider, plugs: list[socket.socket], count: int
    ) -> None:
        """Half of them have asked something, half have never said anything."""
        alone = chats(own, 100)
        before = memory(own)

        for number in range(count):
            plugs.append(plug := connect(own))
            if number % 2:
                plug.sendall(asking(CHAT))
                assert plug.recv(65_536).startswith(b"HTTP/1.1 200")
        grown, used = memory(own) - before, processor_s(own)

        assert facts(own)["connections"] >= count
        assert grown / count < BYTES_PER_CONNECTION
        assert chats(own, 100) < 3 * alone + 0.05
        time.sleep(1)  # noqa: TID251  # what idle connections cost while nothing happens
        assert processor_s(own) - used < 2.0

    def test_they_are_closed_in_time(self, tmp_path: Path, provider: Provider, plugs: list[socket.socket]) -> None:
        with running_product(tmp_path, provider, KEEP_ALIVE_S="1") as product:
            plugs += [connect(product) for _ in range(50)]
            plugs[0].sendall(asking(CHAT))
            assert plugs[0].recv(65_536).startswith(b"HTTP/1.1 200")

            assert [plug.recv(10) for plug in plugs] == [b""] * 50
            assert metric(product, 'llmgateway_connections_ended_total{reason="idle"}') >= 50


class TestSlowHeads:
    def test_hundreds_of_them_are_cut_while_others_are_served(
        self, own: Product, provider: Provider, plugs: list[socket.socket]
    ) -> None:
        plugs += [connect(own) for _ in range(400)]
        began = time.monotonic()
        for piece in (b"POST /v1/chat/completions HTTP/1.1\r\n", b"host: gateway\r\n", b"x-a: 1\r\n"):
            for plug in plugs:
                plug.sendall(piece)
            chats(own, 5)

        answers = [plug.recv(4096) for plug in plugs]

        assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
        assert 1.5 < time.monotonic() - began < 10
        assert [plug.recv(10) for plug in plugs] == [b""] * 400
        assert metric(own, 'llmgateway_connections_ended_total{reason="slow_head"}') >= 400

    def test_a_head_that_is_too_large_is_refused(self, own: Product, plugs: list[socket.socket]) -> None:
        plugs.append(plug := connect(own))
        plug.sendall(b"GET /health HTTP/1.1\r\n" + b"x-a: 1\r\n" * 500)

        assert plug.recv(4096).startswith(b"HTTP/1.1 431")


class TestSlowReaders:
    COUNT = 40

    def test_they_hold_little_and_are_cut_off_and_settled(
        self, own: Product, provider: Provider, plugs: list[socket.socket]
    ) -> None:
        """Each asks for 20 MB and reads nothing."""
        chats(own, 20)
        before, ended = memory(own), metric(own, 'llmgateway_connections_ended_total{reason="stalled"}')
        body = {**CHAT, "stream": True, "x_fake": {"tokens": 80_000}}
        for _ in range(self.COUNT):
            plugs.append(plug := connect(own, receive_buffer=4096))
            plug.sendall(asking(body))
        wait_for(lambda: facts(own)["requests_in_flight"] == self.COUNT, "the start of all streams")
        grown = memory(own) - before

        chats(own, 20)
        wait_for(lambda: facts(own)["requests_in_flight"] == 0, "their end", within_s=15)

        assert grown < self.COUNT * 2**20
        assert metric(own, 'llmgateway_connections_ended_total{reason="stalled"}') == ended + self.COUNT

        def streams() -> list[dict[str, Any]]:
            return [record for record in provider.sent if record["body"].get("stream")]

        assert len(streams()) == self.COUNT
        wait_for(lambda: all(each["disconnected_at"] for each in streams()), "the provider to see that", within_s=1)
        assert not any(record["finished_at"] for record in streams())
        assert all(record["pieces_sent"] < 80_000 for record in streams())
        rows = [row for row in own.usage() if row["status"] == "cancelled"]
        assert len(rows) == ended + self.COUNT
        assert all(row["cost_pico_usd"] > 0 for row in rows)

    def test_who_reads_slowly_gets_everything(self, own: Product, provider: Provider) -> None:
        """For twice as long as a client may read nothing."""
        plug = connect(own, receive_buffer=65_536)
        plug.sendall(asking({**CHAT, "stream": True, "x_fake": {"tokens": 3000}}))
        received, began = b"", time.monotonic()
        while not received.endswith(b"0\r\n\r\n"):
            piece = plug.recv(32_768)
            assert piece, received[-200:]
            received += piece
            time.sleep(0.1)  # noqa: TID251  # the client under test is slow
        plug.close()

        assert b"[DONE]" in received[-100:]
        assert time.monotonic() - began > 2


class TestNumbers:
    def test_when_all_are_busy_operators_are_answered_and_silent_ones_make_room(
        self, tmp_path: Path, provider: Provider, plugs: list[socket.socket]
    ) -> None:
        with running_product(tmp_path, provider, MAX_CONNECTIONS="20") as product:
            plugs += [connect(product) for _ in range(20)]
            for plug in plugs:
                plug.sendall(asking({**CHAT, "stream": True, "x_fake": {"stall_after": 2}}))
                assert plug.recv(4096).startswith(b"HTTP/1.1 200")

            refused = httpx.post(f"{product.url}/v1/chat/completions", json=CHAT)
            pages = [httpx.get(f"{product.url}{path}").status_code for path in ("/health", "/metrics", "/admin/login/")]
            plugs.pop().close()
            wait_for(lambda: facts(product)["requests_in_flight"] == 19, "the client's leaving")

            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"]
            assert pages == [200, 200, 200]
            assert chats(product, 1)

            while plugs:
                plugs.pop().close()
            plugs += [connect(product) for _ in range(20)]
            time.sleep(1.1)  # noqa: TID251  # newcomers are spared for a second
            assert chats(product, 3)
            assert plugs[0].recv(10) == b""


class TestTurns:
    def test_beyond_the_queue_and_the_bound_of_an_address_they_are_refused_at_once(
        self, tmp_path: Path, provider: Provider, plugs: list[socket.socket]
    ) -> None:
        bounds = tmp_path / "bounds.yaml"
        bounds.write_text("version: 1\nsettings: {load: {max_in_flight: 3, max_queued: 2, queue_wait_s: 60}}\n")
        with running_product(tmp_path, provider, MAX_CONNECTIONS_PER_ADDRESS="12") as product:
            product.manage("import_config", str(bounds))
            wait_for(lambda: metric(product, "llmgateway_turns_bound") == 3, "the new bounds")
            stalling = asking({**CHAT, "stream": True, "x_fake": {"stall_after": 2}})
            plugs += [connect(product) for _ in range(5)]
            for plug in plugs:
                plug.sendall(stalling)
            wait_for(lambda: facts(product)["requests_queued"] == 2, "the queue")

            began = time.monotonic()
            headers = {"authorization": f"Bearer {KEY}"}
            refused = httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers=headers)
            took = time.monotonic() - began
            pages = [httpx.get(f"{product.url}{path}").status_code for path in ("/health", "/metrics", "/admin/login/")]
            while plugs:
                plugs.pop().close()  # The two that wait leave first.
            wait_for(lambda: facts(product)["requests_in_flight"] == 0, "their leaving")

            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert took < 2
            assert pages == [200, 200, 200]
            assert chats(product, 5)
            assert metric(product, "llmgateway_turns_taken") == 0
            plugs += [connect(product) for _ in range(12)]
            wait_for(lambda: facts(product)["connections"] >= 12, "the connections of one address")
            assert httpx.post(f"{product.url}/v1/chat/completions", json=CHAT).status_code == 429
            assert [row["status"] for row in product.usage()].count("cancelled") == 3

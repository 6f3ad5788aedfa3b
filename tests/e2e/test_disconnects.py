"""A caller who leaves: the provider's connection is closed within 200 ms, and what was used is settled."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import INPUT_PRICE, KEY, Product, Provider, wait_for

MAX_DELAY_S = 0.2
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


def send_request(
    product: Product, body: dict[str, Any], *, client_id: str = "any", receive_buffer: int = 0
) -> socket.socket:
    """A request on a bare socket, so that the test decides what is read and when the connection goes."""
    plug = socket.socket()
    if receive_buffer:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plug.connect(("127.0.0.1", product.port))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n"
        f"x-request-id: {client_id}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    plug.sendall(head.encode() + content)
    return plug


def leave(plug: socket.socket, provider: Provider) -> float:
    """Close, and return how many seconds later the provider saw its own client go."""
    left = time.time()
    plug.close()
    record = wait_for(lambda: next((each for each in provider.sent if each["disconnected_at"]), None), "the abort")
    return float(record["disconnected_at"]) - left


def settled_row(product: Product, client_id: str) -> dict[str, Any]:
    """The ledger row of this test's request, which the log knows by the id that the caller gave it."""
    return product.ledger_row(product.log_line(client_request_id=client_id)["request_id"])


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_headers(product: Product, provider: Provider, stream: bool) -> None:
    provider.script(stall_after=0)
    plug = send_request(product, {**CHAT, "stream": stream}, client_id=f"early-{stream}")
    wait_for(lambda: provider.sent, "the request at the provider")

    delay = leave(plug, provider)

    row = settled_row(product, f"early-{stream}")
    assert delay < MAX_DELAY_S
    assert (row["status"], row["usage_source"]) == ("cancelled", "estimated")
    assert row["cost_pico_usd"] == row["input_tokens"] * INPUT_PRICE > 0


def test_leaving_between_chunks(product: Product, provider: Provider) -> None:
    provider.script(stall_after=6)
    plug = send_request(product, {**CHAT, "stream": True}, client_id="between")
    wait_for(lambda: provider.sent and provider.last["pieces_sent"] == 6, "six chunks")
    assert plug.recv(65536).startswith(b"HTTP/1.1 200")

    delay = leave(plug, provider)

    row = settled_row(product, "between")
    assert delay < MAX_DELAY_S
    assert (row["status"], row["usage_source"]) == ("cancelled", "estimated")
    assert 4 <= row["output_tokens"] <= 6


def test_leaving_while_the_gateway_is_blocked_on_a_slow_reader(product: Product, provider: Provider) -> None:
    provider.script(tokens=300_000)
    plug = send_request(product, {**CHAT, "stream": True}, client_id="blocked", receive_buffer=4096)
    wait_for(lambda: provider.sent and provider.last["headers_sent_at"], "the answer's beginning")
    plug.recv(1024)
    _wait_until_stuck(provider)

    delay = leave(plug, provider)

    row = settled_row(product, "blocked")
    assert delay < MAX_DELAY_S
    assert row["status"] == "cancelled"
    assert row["output_tokens"] > 0


def _wait_until_stuck(provider: Provider) -> None:
    """Nothing moves any more, for all buffers on the way are full."""
    before = (-1, 0.0)

    def is_stuck() -> bool:
        nonlocal before
        now = (provider.last["pieces_sent"], time.monotonic())
        if now[0] != before[0]:
            before = now
        return now[1] - before[1] > 0.5

    wait_for(is_stuck, "backpressure", within_s=10)
    assert provider.last["finished_at"] is None


def test_nothing_is_held_after_everybody_left(product: Product, provider: Provider) -> None:
    provider.script(stall_after=3, times=10)
    plugs = [send_request(product, {**CHAT, "stream": True}) for _ in range(10)]
    wait_for(lambda: len(provider.sent) == 10, "ten requests")

    for plug in plugs:
        plug.close()

    wait_for(lambda: all(each["disconnected_at"] for each in provider.sent), "ten aborts")
    rows = product.usage()[-10:]
    assert {row["status"] for row in rows} == {"cancelled"}
    assert _in_flight(product) == 0


def _in_flight(product: Product) -> float:
    text = httpx.get(f"{product.url}/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith("llmgateway_requests_in_flight ")]
    return float(line.rpartition(" ")[2])

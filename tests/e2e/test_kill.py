"""`kill -9` under load: what clients received is in the ledger once, at what the provider billed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider

CALLERS = 16
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


class Load:
    """Callers that ask again and again, every other time for a stream, and note what they got."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.completed: dict[str, dict[str, Any]] = {}
        """By request id: the provider's usage, for answers that arrived to their last byte."""
        self.begun: set[str] = set()
        """Request ids of streams whose headers arrived."""

    async def run_until_it_dies(self, *, kill_after: int) -> None:
        """Kill the product as soon as `kill_after` answers are complete."""
        async with httpx.AsyncClient(base_url=self._product.url, timeout=10) as client:
            callers = [asyncio.ensure_future(self._call_forever(client, bool(number % 2))) for number in range(CALLERS)]
            while len(self.completed) < kill_after:
                assert not all(caller.done() for caller in callers), "every caller failed before the kill"
                await asyncio.sleep(0.005)
            await asyncio.to_thread(self._product.kill)
            await asyncio.wait_for(asyncio.gather(*callers), 15)

    async def _call_forever(self, client: httpx.AsyncClient, stream: bool) -> None:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        headers = {"authorization": f"Bearer {KEY}"}
        while True:
            try:
                async with client.stream(
                    "POST", "/v1/chat/completions", json={**CHAT, **options}, headers=headers
                ) as response:
                    assert response.status_code == 200, await response.aread()
                    request_id = response.headers["x-request-id"]
                    self.begun.add(request_id)
                    body = await response.aread()
            except httpx.TransportError:
                return
            self.completed[request_id] = _usage(body, stream=stream)


def _usage(body: bytes, *, stream: bool) -> dict[str, Any]:
    answer = json.loads(body.split(b"\n\n")[-3].removeprefix(b"data: ") if stream else body)
    usage: dict[str, Any] = answer["usage"]
    return usage


async def test_the_ledger_equals_what_clients_received(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        load = Load(product)
        # Slow enough that at any moment some of them run.
        provider.script(times=10_000, chunk_delay_ms=15, delay_ms=50)

        await load.run_until_it_dies(kill_after=150)
        await asyncio.to_thread(product.restart)
        rows = await asyncio.to_thread(product.usage)

        _check(rows, load, provider)


def _check(rows: list[dict[str, Any]], load: Load, provider: Provider) -> None:
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows), "a request is in the ledger twice"
    for request_id, usage in load.completed.items():
        row = by_id[request_id]
        assert (row["status"], row["usage_source"]) == ("completed", "provider")
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert load.begun <= by_id.keys()
    # What the provider worked on and nobody received is there too: complete, or marked as estimated.
    # A request may also have died between its journal entry and the provider.
    assert len(provider.sent) <= len(rows) <= len(provider.sent) + CALLERS
    unfinished = [row for row in rows if row["status"] == "interrupted"]
    assert all(row["usage_source"] == "estimated" for row in unfinished)
    assert unfinished, "the kill came at a moment when nothing was running"


def test_a_restart_serves_at_once_from_the_same_rows(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers=headers).raise_for_status()
        product.kill()
        product.restart()

        httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers=headers).raise_for_status()

        assert [row["status"] for row in product.usage()] == ["completed", "completed"]
        assert product.stop() == 0


def test_a_stop_signal_lets_running_streams_finish(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        provider.script(chunk_delay_ms=40, tokens=20)
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.stream(
            "POST", f"{product.url}/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers, timeout=10
        ) as response:
            pieces = response.iter_raw()
            first = next(pieces)
            product.child.process.terminate()
            rest = b"".join(pieces)

        assert (first + rest).endswith(b"data: [DONE]\n\n")
        assert product.stop() == 0
        assert [row["status"] for row in product.usage()] == ["completed"]

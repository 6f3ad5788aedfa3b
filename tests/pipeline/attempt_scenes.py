"""What tests of attempts have in common: streams, callers that leave, and the look at what must have returned."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from llmgateway.pipeline.protocols import Record
from llmgateway.pipeline.snapshot import Deployment
from tests.gateways import SECRET, Caller, House

COMMENT = b": keep-alive\n\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}\n\n'
DONE = b"data: [DONE]\n\n"
PATH = "/v1/chat/completions"


def said(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def error_event(**error: Any) -> bytes:
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def error(code: str | None = None, message: str = "no") -> Record:
    return {"error": {"message": message, "type": "x", "code": code}}


class Visit:
    """A call that runs, of a caller that may leave."""

    def __init__(self, house: House, body: dict[str, Any] | None = None, **headers: str) -> None:
        self.house = house
        self.caller = Caller()
        asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **(body or {})}
        sent = {"authorization": f"Bearer {SECRET}", **{name.replace("_", "-"): text for name, text in headers.items()}}
        self.task = asyncio.create_task(self.caller.call(house.app, "POST", PATH, json.dumps(asked).encode(), sent))

    async def pass_time(self, seconds: float) -> None:
        """The clock jumps, and whoever is overdue is ended."""
        await asyncio.sleep(0.02)
        self.house.clock.advance(seconds)
        self.house.gateway.exchanges.tick()

    async def asked(self, targets: int) -> None:
        """Wait until so many upstream calls have been made."""
        async with asyncio.timeout(2):
            while len(self.house.upstream.requests) < targets:  # noqa: ASYNC110  # Nobody tells.
                await asyncio.sleep(0.002)

    async def leave(self) -> None:
        """Returns when the request is over; it may take 200 ms."""
        self.house.gateway.exchanges.tick()
        self.caller.left.set()
        await asyncio.wait_for(self.task, 0.2)

    async def answer(self) -> Any:
        await asyncio.wait_for(self.task, 2)
        return self.caller.response()


def check_returned(house: House, *deployments: Deployment) -> None:
    """Nothing runs, and every attempt that was begun is in the row exactly once; the row costs what they cost."""
    assert len(house.gateway.exchanges) == 0
    assert house.ledger.running == set()
    for deployment in deployments:
        assert house.gateway.traffic.in_flight(deployment.id) == 0
    for stream in house.upstream.streams:
        assert stream.closed or stream.exhausted
    for row in house.ledger.closed:
        assert row["cost_pico_usd"] == sum(attempt["cost_pico_usd"] for attempt in row["attempts"])
        begun = 1 + sum(number == row["id"] and "won" not in record for number, record in house.ledger.attempts)
        assert len(row["attempts"]) == begun

"""What tests of shared answers have in common."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from llmgateway.pipeline.caching import Caching
from llmgateway.stores.cache_memory import MemoryAnswers
from tests.fakes import Reply
from tests.gateways import CHAT, SECRET, Caller, House


def slow(delay_s: float = 0.05, answer: Any = CHAT, status: int = 200) -> Reply:
    reply = Reply.json(answer, status)
    return Reply(reply.status, reply.headers, reply.pieces, delay_s)


def calling(house: House, **body: Any) -> tuple[Caller, asyncio.Task[None]]:
    caller = Caller()
    asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **body}
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    call = caller.call(house.app, "POST", "/v1/chat/completions", json.dumps(asked).encode(), headers)
    return caller, asyncio.create_task(call)


async def leave(house: House, caller: Caller, task: asyncio.Task[None]) -> None:
    house.gateway.exchanges.tick()
    await asyncio.sleep(0)
    caller.left.set()
    await asyncio.wait_for(task, 1)


def impatient(house: House, store: MemoryAnswers | None = None) -> House:
    """One in which a leader soon counts as slow."""
    house.gateway.caching = Caching(house.gateway, store or MemoryAnswers(house.clock), slow_s=0.05)
    return house

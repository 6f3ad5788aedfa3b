"""`python -m llmgateway.demo.traffic`: real requests through the running demo, at a pace that a person can watch. No Django.

Lively for some minutes, so that the dashboard fills before one's eyes; then now and then, so that a demo left alone
stays small.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
from dataclasses import dataclass
from typing import Any

from llmgateway.http import httpx
from llmgateway.processes import is_running

LIVELY_S = 600.0
LIVELY_GAP_S = 0.6
QUIET_GAP_S = 8.0
TOPICS = ("a refund", "tomorrow's weather", "our release notes", "an SQL query", "a short poem", "the quarterly report")


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request. `script` tells the fake provider how to behave."""

    weight: int
    variable: str
    """Names the environment variable with the key's secret."""
    path: str
    body: dict[str, Any]
    script: dict[str, Any]
    leaves_early: bool = False


def _chat(model: str, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Write about {topic}, please."}]}


CALLS = (
    Call(8, "DEMO_KEY", "chat/completions", _chat("demo-chat", stream=False), {"delay_ms": 350, "tokens": 120}),
    Call(10, "DEMO_KEY", "chat/completions", _chat("demo-chat", stream=True), {"delay_ms": 250, "chunk_delay_ms": 12, "tokens": 140}),
    Call(8, "DEMO_MOBILE_KEY", "chat/completions", _chat("demo-chat", stream=True), {"delay_ms": 180, "chunk_delay_ms": 9, "tokens": 80}),
    Call(3, "DEMO_RESEARCH_KEY", "chat/completions", _chat("demo-large", stream=True), {"delay_ms": 500, "chunk_delay_ms": 15, "tokens": 300}),
    Call(2, "DEMO_KEY", "chat/completions", {**_chat("demo-reasoning", stream=False), "reasoning_effort": "low"}, {"delay_ms": 900, "tokens": 200}),
    Call(5, "DEMO_MOBILE_KEY", "embeddings", {"model": "demo-embedding", "input": "Something about {topic}."}, {"delay_ms": 30}),
    Call(1, "DEMO_KEY", "chat/completions", _chat("demo-chat", stream=True), {"chunk_delay_ms": 40, "tokens": 200}, leaves_early=True),
    Call(1, "DEMO_RESEARCH_KEY", "chat/completions", _chat("demo-large", stream=False), {"status": 400}),
    Call(1, "DEMO_MOBILE_KEY", "chat/completions", _chat("demo-large", stream=False), {}),  # Not allowed for this key.
)  # fmt: skip


async def run(base_url: str) -> None:
    """Until the process that started us is gone."""
    chance = random.Random()  # noqa: S311  # not a secret
    parent = os.getppid()
    running: set[asyncio.Task[None]] = set()
    began = asyncio.get_running_loop().time()
    async with httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as client:
        for number in itertools.count():
            call = chance.choices(CALLS, [each.weight for each in CALLS])[0]
            task = asyncio.create_task(_send(client, call, chance.choice(TOPICS), number))
            running.add(task)
            task.add_done_callback(running.discard)
            lively = asyncio.get_running_loop().time() - began < LIVELY_S
            await asyncio.sleep(chance.expovariate(1 / (LIVELY_GAP_S if lively else QUIET_GAP_S)))
            if os.getppid() != parent or not is_running(parent):
                return


async def _send(client: httpx.AsyncClient, call: Call, topic: str, number: int) -> None:
    body = {**call.body, "user": f"user-{number % 40 + 1}", "x_fake": call.script}
    if "messages" in body:
        body["messages"] = [
            {**message, "content": message["content"].format(topic=topic)} for message in body["messages"]
        ]
    else:
        body["input"] = body["input"].format(topic=topic)
    headers = {"authorization": f"Bearer {os.environ[call.variable]}"}
    # The gateway may be stopping or starting again; this is traffic, and the next request comes soon.
    with contextlib.suppress(httpx.TransportError):
        async with client.stream("POST", call.path, json=body, headers=headers) as response:
            async for _ in response.aiter_bytes():
                if call.leaves_early:
                    return


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llmgateway.demo.traffic", description=__doc__)
    parser.add_argument("base_url", help="the gateway's API, such as http://127.0.0.1:8000/v1/")
    asyncio.run(run(parser.parse_args().base_url))


if __name__ == "__main__":
    main()

"""A client as a process of its own, which notes what it asked and what it received: `python -m tests.e2e.witness URL DIARY KEY …`.

It asks again and again, every other time for a stream, and goes on while nobody answers. What it noted survives whatever
happens to the gateway and to itself: each line is written before anything else is done.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from llmgateway.http import httpx

CALLERS = 16
AWAY_S = 0.05
"""Between two attempts to reach a gateway that is not there."""
NUMBER = "question "


class Witness:
    """`asked`, `begun` and `received` are the words of its diary, each with the number of the question."""

    def __init__(self, url: str, diary: str, keys: list[str]) -> None:
        self._diary = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._url = url
        self._keys = keys
        self._numbers = itertools.count(1)

    async def watch(self) -> None:
        limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
        async with httpx.AsyncClient(base_url=self._url, timeout=20, limits=limits) as http:
            await asyncio.gather(*[self._ask_forever(http) for _ in range(CALLERS)])

    async def _ask_forever(self, http: httpx.AsyncClient) -> None:
        while True:  # Until the process is stopped.
            number = next(self._numbers)
            try:
                await self._ask(http, number)
            except httpx.TransportError:
                await asyncio.sleep(AWAY_S)

    async def _ask(self, http: httpx.AsyncClient, number: int) -> None:
        stream = bool(number % 2)
        body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": f"{NUMBER}{number}"}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        key = self._keys[number // 2 % len(self._keys)]
        # The ledger keeps it as the client's own id: who has seen no headers knows no other.
        headers = {"authorization": f"Bearer {key}", "x-request-id": str(number)}
        self._note("asked", number)
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                # While it starts or stops it may say that it is not ready; that is an answer, and nothing was used.
                self._note("refused", number, status=answer.status_code, body=(await answer.aread()).decode())
                await asyncio.sleep(AWAY_S)
                return
            request_id = answer.headers["x-request-id"]
            self._note("begun", number, id=request_id)
            content = await answer.aread()
        self._note("received", number, id=request_id, usage=_usage(content, stream=stream))

    def _note(self, word: str, number: int, **more: Any) -> None:
        os.write(self._diary, json.dumps({"word": word, "number": number, **more}).encode() + b"\n")


def _usage(content: bytes, *, stream: bool) -> dict[str, Any]:
    answer = json.loads(content.split(b"\n\n")[-3].removeprefix(b"data: ") if stream else content)
    usage: dict[str, Any] = answer["usage"]
    return usage


class Diary:
    """What a witness noted."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        self.asked = {line["number"] for line in lines if line["word"] == "asked"}
        self.begun = {line["number"]: line["id"] for line in lines if line["word"] == "begun"}
        self.received = {line["number"]: line["usage"] for line in lines if line["word"] == "received"}
        """The provider's usage, of answers that came to their last byte."""
        self.refused = [line for line in lines if line["word"] == "refused"]


def received_so_far(path: Path) -> int:
    return path.read_bytes().count(b'"received"') if path.exists() else 0


if __name__ == "__main__":
    asyncio.run(Witness(sys.argv[1], sys.argv[2], sys.argv[3:]).watch())

"""Bodies of many parts are translated while others have their turns."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llmgateway.pipeline import obtaining, translation
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, snapshot

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": "end_turn",
           "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
CLAUDE = deployment("claude", 2, provider="claude", adapter=get_adapter("anthropic"))
PARTS = [{"type": "text", "text": "a"}] * 20_000


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which threads requests were written."""
    seen: list[str] = []
    written = translation.outgoing

    def outgoing(*args: Any, **named: Any) -> Any:
        seen.append(threading.current_thread().name)
        return written(*args, **named)

    monkeypatch.setattr(obtaining, "outgoing", outgoing)
    return seen


async def test_a_large_one_is_translated_in_a_thread(threads: list[str]) -> None:
    place = House(ScriptedUpstream(Reply.json(MESSAGE)), snapshot(alias("gpt", CLAUDE)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(others())
    answer = await place.chat({"messages": [{"role": "user", "content": PARTS}]})
    counting.cancel()

    assert answer.status_code == 200
    assert len(place.upstream.bodies[0]["messages"][0]["content"]) == len(PARTS)
    assert threads != ["MainThread"]
    assert turns > 20


@pytest.mark.parametrize(("made", "content"), [(CLAUDE, "short"), (deployment(), PARTS)])
async def test_others_stay_where_they_are(threads: list[str], made: Any, content: Any) -> None:
    place = House(ScriptedUpstream(Reply.json(MESSAGE if made is CLAUDE else CHAT)), snapshot(alias("gpt", made)))

    await place.chat({"messages": [{"role": "user", "content": content}]})

    assert threads == ["MainThread"]

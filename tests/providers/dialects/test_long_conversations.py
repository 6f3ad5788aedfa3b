"""The time to translate a request grows with its length and no faster: the event loop waits meanwhile, for everybody."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.registry import get_dialect

OUTBOUND = ("openai.chat", "anthropic.messages", "gemini.generate_content", "openai.responses", "bedrock.converse")
SHORT, LONG = 500, 8_000
TOO_MUCH = 5 * LONG / SHORT
"""Times as much, where the length alone accounts for a fifth of it and its square for three times as much."""
pytestmark = pytest.mark.no_cover  # What is measured is the work; following each line of it would take longer.


def users(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}] * count}


def system(count: int) -> dict[str, Any]:
    return {"messages": [*[{"role": "system", "content": "x"}] * count, {"role": "user", "content": "x"}]}


def calls(count: int) -> dict[str, Any]:
    called = [
        {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for number in range(count)
    ]
    results = [{"role": "tool", "tool_call_id": f"c{number}", "content": "x"} for number in range(count)]
    return {"messages": [{"role": "assistant", "tool_calls": called}, *results]}


def items(count: int) -> dict[str, Any]:
    called = [
        {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"} for number in range(count)
    ]
    results = [{"type": "function_call_output", "call_id": f"c{number}", "output": "x"} for number in range(count)]
    return {"input": [*called, *results]}


def seconds(work: Callable[[], object]) -> float:
    """Of this thread's own time, the least of three."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        work()
        times.append(time.thread_time() - begun)
    return min(times)


@pytest.mark.parametrize("outbound", OUTBOUND)
@pytest.mark.parametrize(
    ("inbound", "asked"),
    [("openai.chat", users), ("openai.chat", system), ("openai.chat", calls), ("openai.responses", items)],
)
def test_a_long_conversation_takes_as_long_as_it_is_long(
    inbound: str, asked: Callable[[int], dict[str, Any]], outbound: str
) -> None:
    reads, writes = get_dialect(inbound), get_dialect(outbound)

    def translated(body: bytes) -> bytes:
        return writes.write_request(reads.read_request(body), Limits("m")).body

    short, long = (json.dumps({"model": "m", **asked(count)}).encode() for count in (SHORT, LONG))

    assert translated(long)
    assert seconds(lambda: translated(long)) < TOO_MUCH * seconds(lambda: translated(short))

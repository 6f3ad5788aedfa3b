"""A request that is over is gone at once: what waits for the garbage collector of a busy process waits for long."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House
from tests.pipeline.attempt_scenes import DONE, USAGE, Visit, said

STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SLOW = Reply.events(said("Hel"), 0.03, said("lo"), USAGE, DONE)


async def whole(visit: Visit) -> None:
    await visit.answer()


async def watched(visit: Visit) -> None:
    """For so long that the watch over its client has begun."""
    await asyncio.sleep(0.01)
    visit.house.gateway.exchanges.tick()
    await visit.answer()


async def left(visit: Visit) -> None:
    await asyncio.sleep(0.01)
    await visit.leave()


async def made_garbage(
    reply: Reply, asked: dict[str, object], course: Callable[[Visit], Awaitable[None]]
) -> Counter[str]:
    """Objects of ours that a request has left in cycles, by class."""
    place = House(ScriptedUpstream(reply))
    gc.collect()
    gc.disable()
    try:
        await course(Visit(place, asked))
        await asyncio.sleep(0)  # Tasks that were cancelled end in the next turn.
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return Counter({name: count for name, count in found.items() if name.startswith(("llmgateway.", "providers."))})


@pytest.mark.parametrize(
    ("reply", "asked", "course"),
    [
        (Reply.json(CHAT), {}, whole),
        (Reply.events(said("Hello"), USAGE, DONE), STREAM, whole),
        (SLOW, STREAM, watched),
        (SLOW, STREAM, left),
    ],
    ids=["json", "stream", "watched", "left"],
)
async def test_nothing_of_a_request_is_left_in_a_cycle(
    reply: Reply, asked: dict[str, object], course: Callable[[Visit], Awaitable[None]]
) -> None:
    assert await made_garbage(reply, asked, course) == Counter()

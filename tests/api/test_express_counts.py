"""What goes the short way and brings no usage is counted as on the long one."""

from __future__ import annotations

import json

from llmgateway.pipeline.snapshot import Estimation
from llmgateway.pipeline.token_counts import TokenCounter
from tests.api.express_scene import Scene, answer, chunked, opened, until
from tests.gateways import CHAT

INPUT = 1 + 4 + 3
EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"one two "}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"three four"}}]}\n\n'
    b"data: [DONE]\n\n"
)
STREAM = chunked(EVENTS)


def counting() -> Estimation:
    return Estimation(counter=TokenCounter(lambda text: len(text.split())))


async def told(scene: Scene, *, after: int) -> list[tuple[int, int, str]]:
    await until(lambda: not len(scene.house.gateway.exchanges))
    return [(row["input"], row["output"], row["usage_source"]) for row in scene.house.ledger.closed[after:]]


async def test_a_whole_answer_without_usage_is_counted() -> None:
    silent = answer(json.dumps({name: value for name, value in CHAT.items() if name != "usage"}).encode())
    async with opened(silent, estimation=counting()) as scene:
        before = len(scene.house.ledger.closed)

        await scene.ask()

        assert await told(scene, after=before) == [(INPUT, 1, "estimated")]
        assert len(scene.express) == 1


async def test_streams_without_usage_are_counted_from_the_second_on() -> None:
    async with opened(STREAM, STREAM, estimation=counting()) as scene:
        before = len(scene.house.ledger.closed)

        said = [(await scene.ask(stream=True)).content for _ in range(2)]

        assert said == [EVENTS] * 2
        assert await told(scene, after=before) == [(INPUT, 2, "estimated"), (INPUT, 4, "estimated")]
        assert len(scene.express) == 2

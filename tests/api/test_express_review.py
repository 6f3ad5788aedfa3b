"""The short way asks providers for the same, tells clients the same, and counts the same as the long one, in each dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from providers.adapters.registry import get_adapter
from tests.api import express_scene
from tests.api.express_scene import EVENTS, OK, QUESTION, STREAM, RawUpstream, Scene, answer, chunked, opened, until
from tests.api.test_express import long_way, settled, timeless
from tests.gateways import CHAT, alias

MOVING = ("x-request-id", "request-id", "server-timing", "x-llm-ttfb-ms", "x-ratelimit-re")
SAID_OF_THE_CALLER = {
    "x-custom": "1",
    "anthropic-beta": "a-beta",
    "x-end-user-id": "somebody",
    "x-request-id": "theirs",
    "x-gateway-session-id": "session",
    "x-gateway-task-type": "task",
}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 9, "output_tokens": 4},
}  # fmt: skip
PROMPT = {"model": "gpt", "prompt": "Hi"}
COMPLETION = {"id": "c", "choices": [{"text": "x", "index": 0}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


MESSAGE_EVENTS = (
    event("message_start", message={**MESSAGE, "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    event("message_stop"),
)


class HeadsToo(RawUpstream):
    """It also keeps the heads of requests, as they came."""

    heads: list[bytes]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read_until: Callable[..., Any] = reader.readuntil

        async def noted(separator: bytes) -> bytes:
            head: bytes = await read_until(separator)
            self.heads = [*getattr(self, "heads", ()), head]
            return head

        reader.readuntil = noted  # type: ignore[assignment, method-assign]
        await super().serve(reader, writer)


@pytest.mark.parametrize(
    ("path", "asked", "said", "adapter"),
    [
        pytest.param("chat/completions", QUESTION, OK, "openrouter", id="chat"),
        pytest.param("chat/completions", {**QUESTION, "stream": True}, STREAM, "groq", id="chat-stream"),
        pytest.param("completions", PROMPT, answer(json.dumps(COMPLETION).encode()), "vllm", id="completion"),
        pytest.param(
            "messages", {**QUESTION, "max_tokens": 9}, answer(json.dumps(MESSAGE).encode()), "anthropic", id="message"
        ),
        pytest.param(
            "messages",
            {**QUESTION, "max_tokens": 9, "stream": True},
            chunked(*MESSAGE_EVENTS),
            "anthropic",
            id="message-stream",
        ),
    ],
)
async def test_in_each_dialect_the_same_is_asked_told_and_booked(
    path: str, asked: dict[str, Any], said: Any, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express_scene, "RawUpstream", HeadsToo)
    async with opened(*[said] * 4) as scene:
        upstream = scene.upstream
        assert isinstance(upstream, HeadsToo)
        use_adapter(scene, adapter)
        headers = {**scene.client.headers, **SAID_OF_THE_CALLER}
        answers = []
        async with type(scene.client)(base_url=scene.client.base_url, headers=headers) as client:
            for new in ({"cookie": "1"}, {}, {}, {"cookie": "2"}):
                answers.append(await client.post(f"/v1/{path}", json=asked, headers=new))  # noqa: PERF401

        assert scene.express == ["taken"], "the head was new but once"
        ours, theirs = answers[-2:]
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert unmoved(ours.headers) == unmoved(theirs.headers)
        assert upstream.heads[-2] == upstream.heads[-1]
        assert upstream.bodies[-2] == upstream.bodies[-1]
        rows = await settled(scene, 4)
        assert timeless(rows[-2]) == timeless(rows[-1])
        assert rows[-1]["output"] > 0


async def test_a_deployment_that_is_changed_is_asked_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said to it before is of the same deployment and the same client."""
    monkeypatch.setattr(express_scene, "RawUpstream", HeadsToo)
    async with opened() as scene:
        upstream = scene.upstream
        assert isinstance(upstream, HeadsToo)
        for secret in (b"old", b"new"):
            (main,) = scene.house.gateway.snapshot.aliases["gpt"].deployments
            made = replace(main, headers=((b"authorization", b"Bearer " + secret),))
            scene.swap(replace(scene.house.gateway.snapshot, aliases={"gpt": alias("gpt", made)}))
            await scene.ask()

        assert scene.express == ["taken"] * 2
        assert [b"Bearer old" in head for head in upstream.heads[-2:]] == [True, False]
        assert b"Bearer new" in upstream.heads[-1]


def use_adapter(scene: Scene, name: str) -> None:
    (main,) = scene.house.gateway.snapshot.aliases["gpt"].deployments
    made = replace(main, id=2, adapter=get_adapter(name))
    scene.swap(replace(scene.house.gateway.snapshot, aliases={"gpt": alias("gpt", made)}))


def unmoved(headers: Any) -> list[tuple[str, str]]:
    return sorted([(name, "" if name.startswith(MOVING) else value) for name, value in headers.items()])


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        pytest.param(OK, {}, id="whole"),
        pytest.param(answer(json.dumps({**CHAT, "usage": None}).encode()), {}, id="without-usage"),
        pytest.param(STREAM, {"stream": True}, id="stream"),
        pytest.param([*chunked(EVENTS[:60], ends=False), b"zz\r\n"], {"stream": True}, id="broken-stream"),
        pytest.param(answer(b"{}", status=503), {}, id="failed"),
    ],
)
async def test_figures_count_it_once_and_as_on_the_long_way(said: Any, asked: dict[str, Any]) -> None:
    async with opened(said, said) as scene:
        before = await figures(scene)
        await scene.ask(**asked)
        await settled(scene)
        between = await figures(scene)
        await long_way(scene, **asked)
        await until(lambda: len(scene.house.ledger.closed) == 2)
        after = await figures(scene)

        assert scene.express == ["taken"]
        ours, theirs = grown(before, between), grown(between, after)
        assert ours == theirs
        assert any(name.startswith("llmproxy_requests_total") for name in ours)


async def figures(scene: Scene) -> dict[str, float]:
    """All that count something, without those of time."""
    async with type(scene.client)(base_url=scene.client.base_url) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    named = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    apart = ("_bucket", "_sum", "process_", "connections")
    return {name: float(value) for name, _, value in named if not any(each in name for each in apart)}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    grew = {name: round(value - before.get(name, 0.0), 13) for name, value in after.items()}
    return {name: value for name, value in grew.items() if value}

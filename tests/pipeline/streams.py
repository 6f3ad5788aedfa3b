"""A stream of a chat that is complete: the same answer as `CHAT`."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes import Reply
from tests.gateways import CHAT

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-upstream-2026"}


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps(HEAD | {"choices": [choice]}).encode() + b"\n\n"


USAGE_EVENT = b"data: " + json.dumps(HEAD | {"choices": [], "usage": CHAT["usage"]}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
EVENTS = (
    chunk({"role": "assistant", "content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
    USAGE_EVENT,
    DONE,
)
WITHOUT_USAGE = b"".join((*EVENTS[:3], DONE))


def events() -> Reply:
    return Reply.events(*EVENTS)

"""What the fake provider says in Anthropic's dialect, and what it refuses there as the real one does. Pure."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from typing import Any

from providers.adapters.types import JSONObject
from providers.fake_server.answers import DEFAULT_TOKENS, WORDS, count_tokens, plainest_value
from providers.fake_server.scripts import Script

THOUGHT = "Let me see what the question is about."
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBmYWtl"
THINKING_TOKENS = 16
MIN_BUDGET = 1_024
_ERRORS = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is a problem with your billing."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: it does not exist"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    503: ("overloaded_error", "Overloaded"),
    529: ("overloaded_error", "Overloaded"),
}
_REASONS = {
    "context_too_long": "prompt is too long: 200001 tokens > 200000 maximum",
    "content_policy": "Output blocked by content filtering policy",
}


def fault(body: JSONObject, version: str | None) -> str:
    """What is wrong with a request; empty if nothing is."""
    if version is None:
        return "anthropic-version: header is required"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    roles = [message.get("role") for message in body.get("messages") or []]
    if not roles:
        return "messages: at least one message is required"
    if set(roles) - {"user", "assistant", "system"}:
        return "messages: Unexpected role"
    if any(role == "system" and before != "user" for before, role in zip(["", *roles], roles, strict=False)):
        return "messages: a system message must follow one of the user"
    return _fault_of_thinking(body) or _fault_of_results(body["messages"])


def _fault_of_thinking(body: JSONObject) -> str:
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled" and not MIN_BUDGET <= thinking.get("budget_tokens", 0) < body["max_tokens"]:
        return "thinking.enabled.budget_tokens: must be at least 1024 and less than max_tokens"
    for message in body["messages"]:
        for block in _blocks(message):
            if block.get("type") == "thinking" and block.get("signature") != SIGNATURE:
                return "messages: Invalid `signature` in `thinking` block"
            if block.get("type") == "text" and not block.get("text"):
                return "messages: text content blocks must be non-empty"
    return ""


def _fault_of_results(messages: list[JSONObject]) -> str:
    for message, following in zip(messages, [*messages[1:], {}], strict=True):
        called = {block["id"] for block in _blocks(message) if block.get("type") == "tool_use"}
        answered = {block["tool_use_id"] for block in _blocks(following) if block.get("type") == "tool_result"}
        if called - answered:
            return "messages: `tool_use` ids were found without `tool_result` blocks immediately after"
    return ""


def _blocks(message: JSONObject) -> list[JSONObject]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def error_object(status: int, message: str = "", reason: str = "") -> JSONObject:
    kind, text = _ERRORS.get(status, ("api_error", "Internal server error"))
    return {
        "type": "error",
        "error": {"type": kind, "message": message or _REASONS.get(reason, text)},
        "request_id": "req_fake",
    }


def prompt_of(body: JSONObject) -> str:
    """Everything the model would read."""
    return json.dumps([body.get("system"), body.get("tools"), body.get("messages")])


class Message:
    """One answer, decided in full before the first byte of it goes out."""

    def __init__(self, body: JSONObject, script: Script, *, number: int, cached: bool) -> None:
        self.body = body
        self.script = script
        self.id = f"msg_fake{number:06d}"
        self.input_tokens = count_tokens(prompt_of(body))
        self.cached = self.input_tokens // 2 if "cache_control" in prompt_of(body) else 0
        self.reads = cached
        self.thinks = (body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}
        self.tool = _demanded_tool(body, script.tool)
        self.words, self.stop_reason = self._say()

    def _say(self) -> tuple[list[str], str]:
        if self.tool is not None:
            given = self.script.text or json.dumps(
                plainest_value(self.tool.get("input_schema") or {}), separators=(",", ":")
            )
            return [given[at : at + 8] for at in range(0, len(given), 8)], "tool_use"
        if self.script.text is not None:
            words = [word + " " for word in self.script.text.split(" ")]
            words[-1] = words[-1].removesuffix(" ")
        else:
            chance = random.Random(zlib.crc32(prompt_of(self.body).encode()))  # noqa: S311  # the same every time
            wanted = DEFAULT_TOKENS if self.script.tokens is None else self.script.tokens
            words = [chance.choice(WORDS) + " " for _ in range(wanted)]
        if self.script.padding:
            words.append("x" * self.script.padding)
        cap = self.body["max_tokens"]
        return (words[:cap], "max_tokens") if cap < len(words) else (words, "end_turn")

    def usage(self, words: int | None = None) -> JSONObject:
        """As Anthropic reports it; after so many `words`, for a stream that broke off."""
        said = len(self.words) if words is None else min(words, len(self.words))
        thought = THINKING_TOKENS if self.thinks else 0
        written, read = (0, self.cached) if self.reads else (self.cached, 0)
        return {
            "input_tokens": self.input_tokens - self.cached,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "output_tokens": said + thought,
            "output_tokens_details": {"thinking_tokens": thought},
            "service_tier": "standard",
        }

    @property
    def before(self) -> int:
        """Events before the first word."""
        return 7 if self.thinks else 3

    def whole(self) -> JSONObject:
        return {
            **self._frame(),
            "content": [*self._thoughts(), self._said()],
            "stop_reason": self.stop_reason,
            "usage": self.usage(),
        }

    def events(self) -> Iterator[JSONObject]:
        """The answer as a stream."""
        begun = {**self.usage(0), "output_tokens": 1}
        begun.pop("output_tokens_details")
        yield {
            "type": "message_start",
            "message": {**self._frame(), "content": [], "stop_reason": None, "usage": begun},
        }
        index = 0
        if self.thinks:
            yield from self._block(0, {"type": "thinking", "thinking": "", "signature": ""}, self._thought_deltas())
            index = 1
        yield {"type": "ping"}
        if self.tool is None:
            deltas = [{"type": "text_delta", "text": word} for word in self.words]
            yield from self._block(index, {"type": "text", "text": ""}, deltas)
        else:
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *self.words]]
            yield from self._block(index, {**self._said(), "input": {}}, deltas)
        ended = {"stop_reason": self.stop_reason, "stop_sequence": None}
        usage = self.usage()
        later = {name: usage[name] for name in ("output_tokens", "output_tokens_details")}
        yield {"type": "message_delta", "delta": ended, "usage": later}
        if self.script.done:
            yield {"type": "message_stop"}

    def _block(self, index: int, block: JSONObject, deltas: list[JSONObject]) -> Iterator[JSONObject]:
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}

    def _thought_deltas(self) -> list[JSONObject]:
        return [{"type": "thinking_delta", "thinking": THOUGHT}, {"type": "signature_delta", "signature": SIGNATURE}]

    def _thoughts(self) -> list[JSONObject]:
        return [{"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}] if self.thinks else []

    def _said(self) -> JSONObject:
        text = "".join(self.words)
        if self.tool is None:
            return {"type": "text", "text": text}
        return {"type": "tool_use", "id": f"toolu_{self.id[-6:]}", "name": self.tool["name"], "input": json.loads(text)}

    def _frame(self) -> JSONObject:
        model = str(self.body.get("model", ""))
        return {"id": self.id, "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


def _demanded_tool(body: JSONObject, scripted: str) -> Any:
    """The tool that `tool_choice` insists on, or the script."""
    tools, choice = body.get("tools") or [], body.get("tool_choice") or {}
    if scripted or choice.get("type") == "tool":
        name = scripted or choice.get("name")
        return next((tool for tool in tools if tool.get("name") == name), None)
    return tools[0] if tools and choice.get("type") == "any" else None

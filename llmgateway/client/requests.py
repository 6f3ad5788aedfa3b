"""What the client sends: paths and bodies. The same for both clients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from llmgateway.client.errors import broken_off

Messages = str | Sequence[Mapping[str, Any]]
"""A question, or a conversation in OpenAI's form."""
STREAM_HEADERS = {"x-gateway-usage-comment": "true"}
_COST = ": x-gateway-cost-usd: "
"""How a stream says behind its last event what it cost."""


class Sent(NamedTuple):
    """One request, but for the model."""

    path: str
    fields: dict[str, Any]
    method: str = "POST"

    def body(self, model: str) -> bytes:
        fields = {"model": model, **self.fields} if model else self.fields
        return json.dumps(fields, default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def chat_request(messages: Messages, parameters: Mapping[str, Any], *, stream: bool = False) -> Sent:
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]
    fields: dict[str, Any] = {"messages": said, **parameters}
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return Sent("/v1/chat/completions", fields)


def said(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def base_url(url: str) -> str:
    """The gateway's address, however much of a base URL for SDKs it is."""
    return url.rstrip("/").removesuffix("/v1")


class StreamState:
    """What a stream of chat events has told so far."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.finish_reason = ""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd: Decimal | None = None

    def texts(self, line: str) -> Iterable[str]:
        """The pieces of text in one line. Raises GatewayError for an event that says that it failed."""
        if line.startswith(_COST):
            self.cost_usd = Decimal(line.removeprefix(_COST))
        if not line.startswith("data:"):
            return
        content = line.removeprefix("data:").strip()
        if not content or content == "[DONE]":
            return
        event = json.loads(content)
        if event.get("error"):
            raise broken_off(event, self.request_id)
        if usage := event.get("usage"):
            self.input_tokens = usage.get("prompt_tokens") or 0
            self.output_tokens = usage.get("completion_tokens") or 0
        for choice in event.get("choices") or []:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if text := (choice.get("delta") or {}).get("content"):
                yield text

"""A request as somebody describes it who wants to know what would become of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llmgateway.api.asgi_types import Message
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import InboundReader
from llmgateway.api.responses import Responder
from llmgateway.conf import Conf
from llmgateway.pipeline.gateway import Gateway
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect

_HELLO = [{"role": "user", "content": "Hello"}]
_PLAINEST: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/chat/completions": ("openai.chat", {"messages": _HELLO}),
    "/v1/responses": ("openai.responses", {"input": "Hello"}),
    "/v1/completions": ("openai.completions", {"prompt": "Hello"}),
    "/v1/embeddings": ("openai.embeddings", {"input": "Hello"}),
    "/v1/messages": ("anthropic.messages", {"messages": _HELLO, "max_tokens": 1024}),
    "/v1beta/models/{model}:generateContent": (
        "gemini.generate_content",
        {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
    ),
}
"""By path: how bodies are written there, and the plainest of them."""
PATHS = tuple(_PLAINEST)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Either a secret or the id of a key; everything else may be left out but the model."""

    model: str
    secret: bytes = b""
    """Looked up as a real request's, and then forgotten."""
    key_id: str = ""
    client_ip: str = "127.0.0.1"
    path: str = PATHS[0]
    body: bytes = b""
    """Empty: the plainest one."""
    headers: Mapping[str, str] = {}
    end_user: str = ""
    input_tokens: int | None = None
    """In place of what the body is estimated at; for requests whose body nobody has any more."""

    def __repr__(self) -> str:
        """Without the secret and what was said, wherever it may be written."""
        return f"Question({self.model!r}, {self.path!r})"

    @property
    def dialect(self) -> Dialect:
        return get_dialect(_PLAINEST[self.path][0])

    @property
    def names_model_in_path(self) -> bool:
        return "{model}" in self.path

    def whole_body(self) -> bytes:
        """What would be sent. A body that names no model gets the one that is asked about."""
        named = {} if self.names_model_in_path else {"model": self.model}
        if not self.body.strip():
            return msgspec.json.encode(named | _PLAINEST[self.path][1])
        try:
            fields = msgspec.json.decode(self.body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self.body  # A real request is told what is wrong with it.
        return self.body if "model" in fields or not named else msgspec.json.encode({**named, **fields})

    def exchange(self, gateway: Gateway, conf: Conf) -> HttpExchange:
        """As if it had come over the network."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.end_user:
            headers["x-end-user-id"] = self.end_user
        raw = [(name.encode("latin-1", "replace"), value.encode("utf-8")) for name, value in headers.items()]
        inbound = InboundReader(tuple(conf.key_headers)).read({"headers": raw, "query_string": b""})
        inbound.body = self.whole_body()
        return HttpExchange(
            request_id="explained",
            method="POST",
            path=self.path,
            raw_path=self.path,
            query=b"",
            client_ip=self.client_ip,
            started_at=gateway.clock.time(),
            received=gateway.clock.monotonic(),
            inbound=inbound,
            receive=_nothing_comes,
            responder=Responder(_nobody_listens, b"", self.dialect),
            body_timeout_s=0.0,
            label=self.path,
        )


async def _nothing_comes() -> Message:
    raise RuntimeError("the body is there already")


async def _nobody_listens(message: Message) -> None:
    raise RuntimeError(f"nothing is answered, so not {message['type']} either")

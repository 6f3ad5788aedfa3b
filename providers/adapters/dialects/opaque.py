"""A call that the gateway does not understand: its bytes pass through, and usage is read if the answer has any."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters.body import RequestHead, replace_model
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedBodyError
from providers.adapters.references import may_name
from providers.adapters.types import JSONObject, Operation, Usage


class _Named(msgspec.Struct):
    model: str = ""
    stream: bool | None = None


_KNOWN = {"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"}
_NAMES_KEPT = (
    b"file_id", b"vector_store_ids", b'"container"', b"item_reference", b"previous_response_id", b'"conversation"',
    b"cachedContent", b"cached_content", b"fileUri", b"file_uri",
)  # fmt: skip
"""What stands in a file of requests that name something kept."""
_read = msgspec.json.Decoder(_Named).decode


class Opaque(OpenAIWire):
    """Bodies of any type; a JSON object may name its model."""

    name = "native.opaque"
    operation: ClassVar[Operation] = Operation.PASSTHROUGH
    json_requests = False

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        try:
            named = _read(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            named = _Named()  # No JSON, or nothing that names a model: none of our business.
        # What the body says goes to the provider as it is, so it comes before what a header says.
        return RequestHead(model=named.model or model, stream=stream or named.stream)

    def may_name_kept(self, body: bytes) -> bool:
        # Nobody knows its form, so anything may; also a file of requests that are to be answered later.
        return bool(body) and (body[:64].lstrip()[:1] in (b"{", b"[") or may_name(body, _NAMES_KEPT))

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        raw, model = super().answer_usage(body)
        # Usage in words that nobody here knows is none: it must not pass for exact.
        return (raw if raw is not None and _KNOWN & raw.keys() else None), model

    def usage(self, raw: JSONObject) -> Usage:
        if "prompt_tokens" in raw or "completion_tokens" in raw:
            return super().usage(raw)
        own_cache = "cache_read_input_tokens" in raw or "cache_creation_input_tokens" in raw
        return get_dialect("anthropic.messages" if own_cache else "openai.responses").usage(raw)

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        try:
            return replace_model(body, head.model, model) if _read(body).model == head.model != "" else body
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MalformedBodyError):
            return body


class OpaqueBase(Opaque):
    """The same, where the body names a model that is not called but made into another: it decides nothing."""

    name = "native.opaque_base"

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        return RequestHead(model=model, stream=stream)

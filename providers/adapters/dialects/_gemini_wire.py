"""What Gemini's dialects have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.body import RequestHead
from providers.adapters.dialects import _gemini_errors
from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.dialects._gemini_head import with_model
from providers.adapters.dialects._gemini_usage import apportioned, read_usage
from providers.adapters.dialects._searches import noted, searches_of_gemini
from providers.adapters.dialects.base import Dialect, WireError
from providers.adapters.references import may_name
from providers.adapters.types import JSONObject, Usage

_decode = msgspec.json.Decoder(Any).decode
_NAMES_KEPT = (
    b'"cachedContent"', b'"cached_content"', b'"fileUri"', b'"file_uri"', b'"fileSearchStoreNames"',
    b'"file_search_store_names"',
)  # fmt: skip
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class GeminiWire(Dialect):
    """Their usage object, the errors of Google's APIs, and a model that the path names."""

    tells_kinds = False

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        return with_model(body, model)

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        try:
            answer = _decode(body)
        except _UNREADABLE:
            return None, ""
        said: JSONObject = plain_names(answer) if isinstance(answer, dict) else {}
        raw, model = said.get("usageMetadata"), said.get("modelVersion")
        return noted(raw, searches_of_gemini(said)), model if isinstance(model, str) else ""

    def usage(self, raw: JSONObject) -> Usage:
        return read_usage(raw)

    def by_kind(self, usage: Usage, raw: JSONObject, body: bytes, chars_per_token: float) -> Usage:
        return apportioned(usage, raw, body, chars_per_token)

    def may_name_kept(self, body: bytes) -> bool:
        return may_name(body, _NAMES_KEPT)

    def error_body(self, error: WireError) -> bytes:
        return _gemini_errors.error_body(error)

    def error_event(self, error: WireError) -> bytes:
        return _gemini_errors.error_event(error)

"""What providers that speak OpenAI's protocol have in common."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from providers.adapters.base import Adapter
from providers.adapters.dialects._openai_wire import member
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.errors import error_message, kind_of_limit, kind_of_refusal
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, Operation

CHAT, RESPONSES, REALTIME = "openai.chat", "openai.responses", "openai.realtime"
PATHS = {
    CHAT: "/chat/completions",
    RESPONSES: "/responses",
    "openai.completions": "/completions",
    "openai.embeddings": "/embeddings",
    REALTIME: "/realtime",
    "openai.images": "/images/generations",
    "openai.image_edits": "/images/edits",
    "openai.image_variations": "/images/variations",
    "openai.speech": "/audio/speech",
    "openai.transcriptions": "/audio/transcriptions",
    "openai.audio_translations": "/audio/translations",
    "openai.moderations": "/moderations",
    "common.rerank": "/rerank",
}
TEXT = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION, Operation.EMBEDDINGS})
KEPT = frozenset({"files", "batches", "fine_tuning", "vector_stores", "uploads"})
MEDIA = frozenset({Operation.IMAGE_GENERATION, Operation.SPEECH, Operation.TRANSCRIPTION})


class OpenAICompatible(Adapter):
    """An OpenAI-shaped API: bearer token, `/chat/completions`, `usage.prompt_tokens`."""

    operations: ClassVar[frozenset[Operation]] = TEXT
    chat_output_caps: ClassVar[tuple[str, ...]] = ("max_tokens", "max_completion_tokens")
    """The fields that cap the output of a chat, the preferred one first."""
    speaks_responses: ClassVar[bool] = False
    """Understands OpenAI's Responses too, so that those need no translation."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Dialects that it does not understand, although it offers others of the same operation."""
    error_codes: ClassVar[dict[str, ErrorKind]] = {}
    """What the provider's own error codes mean, before its status is looked at."""
    error_types: ClassVar[dict[str, ErrorKind]] = {}
    """The same for its error types."""

    def dialects(self) -> tuple[str, ...]:
        spoken = [name for name in PATHS if name not in self.lacks and (name != RESPONSES or self.speaks_responses)]
        return tuple(name for name in spoken if get_dialect(name).operation in self.operations)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        path = PATHS[dialect.name]
        return f"{path}?model={quote(model, safe='')}" if dialect.name == REALTIME else path

    def headers(self, secret: str | None) -> Headers:
        return ((b"authorization", b"Bearer " + secret.encode("latin-1")),) if secret else ()

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        error = member(body or {}, "error")
        code = str(error.get("code") or error.get("type") or "")
        known = self.error_codes.get(code) or self.error_types.get(str(error.get("type")))
        if known is not None:
            return known
        if status == 401:
            return ErrorKind.AUTHENTICATION
        if status == 403:
            return kind_of_refusal(f"{code} {error_message(body)}")
        if code == "insufficient_quota" or status == 402:
            return ErrorKind.QUOTA_EXHAUSTED
        if status == 429 or (status == 413 and code == "rate_limit_exceeded"):
            return kind_of_limit(error_message(body))
        if status in (503, 529):
            return ErrorKind.OVERLOADED
        if status >= 500 or status == 408:
            return ErrorKind.SERVER_ERROR
        if code == "context_length_exceeded":
            return ErrorKind.CONTEXT_TOO_LONG
        if code in {"content_policy_violation", "content_filter"}:
            return ErrorKind.CONTENT_POLICY
        return ErrorKind.INVALID_REQUEST

    def output_cap_fields(self, dialect: Dialect) -> tuple[str, ...]:
        return self.chat_output_caps if dialect.name == CHAT else dialect.output_cap_fields

"""Google's Gemini in its own protocol: https://ai.google.dev/api."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from providers.adapters.base import Adapter
from providers.adapters.dialects._gemini_errors import error_kind
from providers.adapters.dialects._gemini_head import resource
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation

METHODS = {
    "gemini.generate_content": ":generateContent",
    "gemini.batch_embed_contents": ":batchEmbedContents",
    "gemini.embed_content": ":embedContent",
}
STREAM = ":streamGenerateContent"
_CALL = re.compile(r"(/v\d\w*/models/|/models/)([^/?]+)(:\w+)")


class Gemini(Adapter):
    name = "gemini"
    keeps_natively = frozenset({"batches", "cachedContents", "corpora", "files", "fileSearchStores", "tunedModels"})
    makes_natively: ClassVar[Mapping[str, str]] = {
        ":batchGenerateContent": "batches",
        ":asyncBatchEmbedContent": "batches",
    }
    vendor = "gemini"
    task_type = "sentiment_analysis"
    trial_model = "gemini-2.5-flash-lite"
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    provider_name = "gcp.gemini"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.EMBEDDINGS})
    # What it tells a model about tools.
    hidden_input_tokens = 1_000

    def dialects(self) -> tuple[str, ...]:
        return tuple(METHODS)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        method = f"{STREAM}?alt=sse" if stream else METHODS[dialect.name]
        return f"/{quote(resource(model), safe='/')}{method}"

    def url(self, base_url: str, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        # Rows from before the gateway spoke the protocol name the address for OpenAI's clients.
        return base_url.removesuffix("/openai") + self.path(dialect, model, stream=stream)

    def native_call(self, path: str) -> NativeCall | None:
        found = _CALL.fullmatch(path)
        if found is None:
            return None
        before, model, method = found.groups()
        name = next(
            (name for name, each in METHODS.items() if each == method.replace(STREAM, ":generateContent")), None
        )
        return None if name is None else NativeCall(name, before, model, method, method == STREAM)

    def models_url(self, base_url: str) -> str:
        return base_url.removesuffix("/openai") + "/models"

    def headers(self, secret: str | None) -> Headers:
        return ((b"x-goog-api-key", secret.encode("latin-1")),) if secret else ()

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        return error_kind(status, body)

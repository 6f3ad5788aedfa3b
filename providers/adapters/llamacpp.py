"""llama.cpp's server: https://github.com/ggml-org/llama.cpp/tree/master/tools/server. Usually without a key."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, Operation


class LlamaCpp(OpenAICompatible):
    name = "llamacpp"
    base_url = "http://127.0.0.1:8080/v1"
    extensions = frozenset({"top_k"})
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.TEXT_COMPLETION, Operation.EMBEDDINGS, Operation.RERANK}
    )
    chat_output_caps = ("max_tokens",)
    # Its codes are statuses; the type says more.
    error_types: ClassVar[dict[str, ErrorKind]] = {
        "exceed_context_size_error": ErrorKind.CONTEXT_TOO_LONG,
        "unavailable_error": ErrorKind.OVERLOADED,
        "authentication_error": ErrorKind.AUTHENTICATION,
    }

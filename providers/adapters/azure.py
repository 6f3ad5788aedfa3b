"""Azure OpenAI: https://learn.microsoft.com/azure/ai-services/openai/reference. A model is the name of a deployment there.

The address of a resource is `https://NAME.openai.azure.com/openai/v1`; with an API version it is
`https://NAME.openai.azure.com/openai?api-version=2024-10-21`.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from providers.adapters._openai_compatible import MEDIA, REALTIME, OpenAICompatible
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, Operation


class Azure(OpenAICompatible):
    name = "azure"
    extensions = frozenset({"developer"})
    provider_name = "azure.ai.openai"
    api_key_variables = ("AZURE_OPENAI_API_KEY",)
    base_url_parameters = frozenset({"api-version"})
    chars_per_token = 5.0
    operations = OpenAICompatible.operations | MEDIA | {Operation.REALTIME}
    keeps = frozenset({"files", "batches", "fine_tuning", "vector_stores"})
    keeps_natively = frozenset(
        {"assistants", "chat/completions", "containers", "conversations", "evals", "threads", "videos"}
    )
    lacks = frozenset({"openai.image_variations"})
    chat_output_caps = ("max_completion_tokens", "max_tokens")
    error_codes: ClassVar[dict[str, ErrorKind]] = {
        "content_filter": ErrorKind.CONTENT_POLICY,
        "ResponsibleAIPolicyViolation": ErrorKind.CONTENT_POLICY,
    }

    def url(self, base_url: str, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        address, question, query = base_url.partition("?")
        if question and dialect.name == REALTIME:
            return f"{address}/realtime?{query}&deployment={quote(model, safe='')}"
        deployment = f"/deployments/{quote(model, safe='')}" if question else ""
        return address + deployment + self.path(dialect, model, stream=stream) + question + query

    def models_url(self, base_url: str) -> str:
        address, question, query = base_url.partition("?")
        return f"{address}/models{question}{query}"

    def headers(self, secret: str | None) -> Headers:
        return ((b"api-key", secret.encode("latin-1")),) if secret else ()

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # Its 403 is a quota of the resource that is used up, or a firewall; the credential is in order.
        if status == 403 and "quota" in str(body).lower():
            return ErrorKind.QUOTA_EXHAUSTED
        return super().error_kind(status, body)

"""xAI (Grok): https://docs.x.ai/docs/api-reference. Reasoning tokens come on top of `completion_tokens`."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, JSONObject, Operation


class XAI(OpenAICompatible):
    name = "xai"
    base_url = "https://api.x.ai/v1"
    provider_name = "x_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("XAI_API_KEY", "GROK_API_KEY")
    speaks_responses = True

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # A wrong key is a 400 here, and the error is plain text.
        if status == 400 and "Incorrect API key" in str(body):
            return ErrorKind.AUTHENTICATION
        return super().error_kind(status, body)

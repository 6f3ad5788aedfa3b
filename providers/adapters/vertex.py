"""Vertex AI's Gemini models: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference.

The address of a project is `https://LOCATION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/LOCATION`; its
credential is a service account's key file, most easily as the reference `file:/run/secrets/account.json`.
"""

from __future__ import annotations

import re
from typing import ClassVar

from providers.adapters._google_account import ServiceAccountSigner
from providers.adapters.base import Adapter
from providers.adapters.dialects._gemini_errors import error_kind
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation, Signer

_CALL = re.compile(r"(.*/publishers/google/models/)([^/:]+)(:(?:g|streamG)enerateContent)")


class Vertex(Adapter):
    name = "vertex"
    keeps_natively = frozenset({"batchPredictionJobs", "cachedContents", "tuningJobs"})
    provider_name = "gcp.vertex_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("VERTEX_SERVICE_ACCOUNT",)
    hidden_input_tokens = 1_000

    def dialects(self) -> tuple[str, ...]:
        return ("gemini.generate_content",)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/publishers/google/models/{model}:{method}"

    def native_call(self, path: str) -> NativeCall | None:
        found = _CALL.fullmatch(path)
        if found is None:
            return None
        before, model, method = found.groups()
        return NativeCall("gemini.generate_content", before, model, method, method.startswith(":stream"))

    def models_url(self, base_url: str) -> str:
        # Projects do not list the models of publishers; their own endpoints need the same rights.
        return base_url + "/endpoints"

    def headers(self, secret: str | None) -> Headers:
        return ()

    def signer(self, secret: str | None) -> Signer | None:
        return ServiceAccountSigner(secret) if secret else None

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        return error_kind(status, body)

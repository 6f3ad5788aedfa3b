"""Anthropic's models on Vertex AI: https://docs.claude.com/en/api/claude-on-vertex-ai. Address and credential as for `vertex`."""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import unquote

import msgspec

from providers.adapters._google_account import ServiceAccountSigner
from providers.adapters.base import Adapter
from providers.adapters.dialects._messages_errors import kind_of
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation, Signer

_CALL = re.compile(r"(.*/publishers/anthropic/models/)([^/:]+)(:(?:rawPredict|streamRawPredict))")
VERSION = b'"vertex-2023-10-16"'

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class VertexAnthropic(Adapter):
    name = "vertex_anthropic"
    provider_name = "gcp.vertex_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("VERTEX_SERVICE_ACCOUNT",)
    chars_per_token = 3.0
    hidden_input_tokens = 1_000
    max_image_tokens = 5_000

    def dialects(self) -> tuple[str, ...]:
        return ("anthropic.messages",)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        return f"/publishers/anthropic/models/{model}:{'streamRawPredict' if stream else 'rawPredict'}"

    def native_call(self, path: str) -> NativeCall | None:
        found = _CALL.fullmatch(path)
        if found is None:
            return None
        before, model, method = found.groups()
        # The body says whether it streams, whichever of the two is called.
        return NativeCall("anthropic.messages", before, unquote(model), method)

    def adapted(self, dialect: Dialect, body: bytes) -> bytes:
        # The path names the model, and the body the version of the API.
        fields = _decode(body)
        fields.pop("model", None)
        fields["anthropic_version"] = msgspec.Raw(VERSION)
        return msgspec.json.encode(fields)

    def models_url(self, base_url: str) -> str:
        return base_url + "/endpoints"

    def headers(self, secret: str | None) -> Headers:
        return ()

    def signer(self, secret: str | None) -> Signer | None:
        return ServiceAccountSigner(secret) if secret else None

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        error = (body or {}).get("error")
        return kind_of(error, status)

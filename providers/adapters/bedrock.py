"""AWS Bedrock's Converse: https://docs.aws.amazon.com/bedrock/latest/userguide/inference-converse.html.

The address is that of a region, `https://bedrock-runtime.us-east-1.amazonaws.com`. A credential is an access key,
`ID:SECRET` or `ID:SECRET:SESSION_TOKEN`, with which every request is signed, or a Bedrock API key.
"""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

from providers.adapters._aws_signature import Credentials, signed
from providers.adapters.base import Adapter
from providers.adapters.dialects._converse_reply import exception_kind
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.errors import error_message, kind_of_refusal
from providers.adapters.errors import CredentialError
from providers.adapters.types import ErrorKind, Headers, JSONObject, NativeCall, Operation, Signer, TokenRequest

_ACCESS_KEY = re.compile(r"A[A-Z0-9]{15,127}")
_REGION = re.compile(r"\b([a-z]{2}(?:-[a-z]+)+-\d)\b")
_CONVERSE = re.compile(r"(/model/)([^/]+)(/converse)(-stream)?")


class Bedrock(Adapter):
    name = "bedrock"
    provider_name = "aws.bedrock"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    api_key_variables = ("AWS_BEARER_TOKEN_BEDROCK",)
    max_image_tokens = 5_000
    hidden_input_tokens = 1_000

    def dialects(self) -> tuple[str, ...]:
        return ("bedrock.converse",)

    def path(self, dialect: Dialect, model: str, *, stream: bool = False) -> str:
        return f"/model/{quote(model, safe=':')}/converse{'-stream' if stream else ''}"

    def native_call(self, path: str) -> NativeCall | None:
        found = _CONVERSE.fullmatch(path)
        if found is None:
            return None
        before, model, after, stream = found.groups()
        return NativeCall("bedrock.converse", before, unquote(model), after + (stream or ""), stream is not None)

    def models_url(self, base_url: str) -> str:
        return base_url.replace("bedrock-runtime.", "bedrock.", 1) + "/foundation-models"

    def headers(self, secret: str | None) -> Headers:
        if secret is None or _is_access_key(secret):
            return ()
        return ((b"authorization", b"Bearer " + secret.encode("latin-1")),)

    def signer(self, secret: str | None) -> Signer | None:
        return RequestSigner(secret) if secret and _is_access_key(secret) else None

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        message = error_message(body)
        kind = exception_kind(str((body or {}).get("__type", "")), message)
        if kind is not None:
            return kind
        if status == 401:
            return ErrorKind.AUTHENTICATION
        if status == 403:
            return kind_of_refusal(message)
        if status == 429:
            return ErrorKind.RATE_LIMITED
        if status in {503, 529}:
            return ErrorKind.OVERLOADED
        if status >= 500 or status in {408, 424}:
            return ErrorKind.SERVER_ERROR
        too_long = "too long" in message or "maximum context" in message
        return ErrorKind.CONTEXT_TOO_LONG if too_long else ErrorKind.INVALID_REQUEST


def _is_access_key(secret: str) -> bool:
    name, colon, _ = secret.partition(":")
    return bool(colon) and _ACCESS_KEY.fullmatch(name) is not None


class RequestSigner:
    """Signs every request with an access key, for the region that its address names."""

    def __init__(self, secret: str) -> None:
        parts = secret.split(":", 2)
        if len(parts) < 2 or not parts[1]:
            raise CredentialError("A credential of Bedrock is ID:SECRET, ID:SECRET:SESSION_TOKEN or an API key.")
        self._credentials = Credentials(*parts)

    def token_request(self, now: float) -> TokenRequest | None:
        return None

    def take_token(self, status: int, body: bytes, now: float) -> None:
        raise ValueError("no token was asked for")

    def headers(self, method: str, url: str, body: bytes, now: float) -> Headers:
        found = _REGION.search(urlsplit(url).hostname or "")
        region = found[1] if found else "us-east-1"
        return signed(self._credentials, method=method, url=url, body=body, region=region, service="bedrock", now=now)

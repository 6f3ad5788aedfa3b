"""The adapters `vertex` and `vertex_anthropic`: addresses, bodies, and tokens of service accounts."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import CredentialError
from providers.adapters.registry import get_adapter
from providers.adapters.types import ErrorKind, Signer

VERTEX, CLAUDE = get_adapter("vertex"), get_adapter("vertex_anthropic")
GENERATE, MESSAGES = get_dialect("gemini.generate_content"), get_dialect("anthropic.messages")
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ACCOUNT = {
    "type": "service_account",
    "client_email": "gateway@acme.example",
    "private_key_id": "k1",
    "private_key": KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode(),
    "token_uri": "https://oauth2.example/token",
}
NOW = 1_700_000_000.0


def signer(secret: str | None = None) -> Signer:
    made = VERTEX.signer(secret or json.dumps(ACCOUNT))
    assert made is not None
    return made


def test_addresses_name_the_publisher_and_the_model() -> None:
    assert VERTEX.path(GENERATE, "gemini-3-pro") == "/publishers/google/models/gemini-3-pro:generateContent"
    assert VERTEX.path(GENERATE, "m", stream=True) == "/publishers/google/models/m:streamGenerateContent?alt=sse"
    assert CLAUDE.path(MESSAGES, "claude-x@1") == "/publishers/anthropic/models/claude-x@1:rawPredict"
    assert CLAUDE.path(MESSAGES, "m", stream=True) == "/publishers/anthropic/models/m:streamRawPredict"


def test_a_body_for_claude_names_the_version_and_no_model() -> None:
    body = json.loads(CLAUDE.adapted(MESSAGES, b'{"model":"m","max_tokens":1,"messages":[]}'))

    assert body == {"max_tokens": 1, "messages": [], "anthropic_version": "vertex-2023-10-16"}


def test_a_statement_that_the_account_has_signed_asks_for_a_token() -> None:
    request = signer().token_request(NOW)

    assert request is not None
    form = parse_qs(request.body.decode())
    claims = jwt.decode(
        form["assertion"][0], KEY.public_key(), algorithms=["RS256"], audience=request.url,
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert request.url == "https://oauth2.example/token"
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert (claims["iss"], claims["exp"] - claims["iat"]) == ("gateway@acme.example", 3600)
    assert jwt.get_unverified_header(form["assertion"][0])["kid"] == "k1"


def test_a_token_serves_until_shortly_before_it_expires() -> None:
    made = signer()

    made.take_token(200, b'{"access_token":"ya29","expires_in":3599}', NOW)

    assert made.headers("POST", "", b"", NOW) == ((b"authorization", b"Bearer ya29"),)
    assert made.token_request(NOW + 3298) is None
    assert made.token_request(NOW + 3300) is not None


@pytest.mark.parametrize("body", [b"", b"{", b'{"error":"invalid_grant"}'])
def test_an_answer_without_a_token_is_told_by_its_status_alone(body: bytes) -> None:
    with pytest.raises(ValueError, match="status 400 without a token"):
        signer().take_token(400, body, NOW)


def test_a_key_file_may_come_in_base64() -> None:
    packed = base64.b64encode(json.dumps(ACCOUNT).encode()).decode()

    assert signer(packed).token_request(NOW) is not None


@pytest.mark.parametrize(
    "secret", ["sk-plain", "{}", json.dumps({**ACCOUNT, "private_key": "-----BEGIN PRIVATE KEY-----\nx"})]
)
def test_another_kind_of_secret_is_refused_without_quoting_it(secret: str) -> None:
    with pytest.raises(CredentialError) as refused:
        VERTEX.signer(secret)

    assert "sk-plain" not in str(refused.value)
    assert "BEGIN" not in str(refused.value)


def test_errors_mean_what_the_providers_mean() -> None:
    google = {"error": {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED"}}
    anthropic = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    assert VERTEX.error_kind(429, google) is ErrorKind.RATE_LIMITED
    assert CLAUDE.error_kind(529, anthropic) is ErrorKind.OVERLOADED

"""Service accounts of Google: statements that they have signed are exchanged for access tokens.

https://developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote, urlencode

import jwt
import msgspec

from providers.adapters.errors import CredentialError
from providers.adapters.types import Headers, TokenRequest

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_S = 3600
EARLY_S = 300
"""A token is replaced so long before it expires: clocks differ, and requests take their time."""


class ServiceAccount(msgspec.Struct, frozen=True):
    """The fields of a key file that matter."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105  # An address.


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float = TOKEN_S


class ServiceAccountSigner:
    """Exchanges statements that a service account has signed for access tokens."""

    def __init__(self, secret: str) -> None:
        self._account = _read(secret)
        self._token = b""
        self._until = 0.0
        self._statement(0.0)  # A private key that is none shows now, not at the first request.

    def token_request(self, now: float) -> TokenRequest | None:
        if now < self._until:
            return None
        form = urlencode({"grant_type": GRANT, "assertion": self._statement(now)}, quote_via=quote)
        headers = ((b"content-type", b"application/x-www-form-urlencoded"),)
        return TokenRequest(self._account.token_uri, headers, form.encode())

    def take_token(self, status: int, body: bytes, now: float) -> None:
        try:
            token = msgspec.json.decode(body, type=_Token)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ValueError(f"status {status} without a token") from None
        self._token = token.access_token.encode("latin-1")
        self._until = now + token.expires_in - EARLY_S

    def headers(self, method: str, url: str, body: bytes, now: float) -> Headers:
        return ((b"authorization", b"Bearer " + self._token),)

    def _statement(self, now: float) -> str:
        account, issued = self._account, int(now)
        claims = {
            "iss": account.client_email,
            "scope": SCOPE,
            "aud": account.token_uri,
            "iat": issued,
            "exp": issued + TOKEN_S,
        }
        try:
            return jwt.encode(claims, account.private_key, algorithm="RS256", headers={"kid": account.private_key_id})
        except (ValueError, TypeError, jwt.PyJWTError):
            raise CredentialError(
                "The service account's private key cannot be read; download its key file anew."
            ) from None


def _read(secret: str) -> ServiceAccount:
    """A key file's text, or that in base64."""
    for decode in (str.encode, _unpacked):
        try:
            return msgspec.json.decode(decode(secret), type=ServiceAccount)
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            continue
    raise CredentialError("A credential of Vertex AI is a service account's key file: JSON, or that in base64.")


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

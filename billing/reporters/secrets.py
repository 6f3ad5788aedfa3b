"""The secrets of reporters: what signs a webhook, a database's password, headers that may hold either."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets

from django.core.exceptions import ValidationError

from providers.secret_values import decrypt, encrypt, is_reference
from providers.validators import validate_credential_secret

PREFIX = "whsec_"
"""Of signing secrets as Standard Webhooks writes them; base64 of 24 to 64 bytes follows."""
MAX_HEADERS = 20

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection", "user-agent"})


def new_signing_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signing_key(secret: str) -> bytes:
    """The bytes that sign. Raises ValueError if `secret` is no signing secret."""
    if not secret.startswith(PREFIX):
        raise ValueError("a signing secret begins with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a signing secret is base64 behind whsec_") from error
    if not 24 <= len(key) <= 64:
        raise ValueError("a signing secret has 24 to 64 bytes")
    return key


def validate_secret(secret: str, *, signs: bool) -> None:
    """A reference, or what can be used at once. No message quotes it."""
    if is_reference(secret) or not signs:
        validate_credential_secret(secret)
        return
    try:
        signing_key(secret)
    except ValueError as error:
        raise ValidationError(
            "Write whsec_ and the base64 of 24 to 64 random bytes, or env:NAME or file:/path of such a secret."
        ) from error


def validate_headers(headers: dict[str, str]) -> None:
    if len(headers) > MAX_HEADERS:
        raise ValidationError(f"At most {MAX_HEADERS} headers.")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValidationError(f"{name!r} is no name of a header; write lines such as Authorization: Bearer …")
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValidationError(f"{name} is set by the gateway itself; leave it out.")
        if not value or not value.isascii() or not value.isprintable():
            raise ValidationError(f"The value of {name} must be printable ASCII, and not empty.")


def write_headers(headers: dict[str, str]) -> str:
    return encrypt(json.dumps(headers)) if headers else ""


def read_headers(stored: str) -> dict[str, str]:
    """Raises ImproperlyConfigured if they cannot be decrypted."""
    headers: dict[str, str] = json.loads(decrypt(stored)) if stored else {}
    return headers


def parse_headers(text: str) -> dict[str, str]:
    """Lines of `Name: value`. Raises ValidationError."""
    headers: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise ValidationError("Write one header a line, such as Authorization: Bearer …")
        headers[name.strip()] = value.strip()
    validate_headers(headers)
    return headers

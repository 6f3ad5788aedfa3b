"""The secrets of API keys: how they look, how they are made, and the digests that are kept in their place. No Django.

A secret is `sk-gw-<public id>-<256 random bits>`; a digest is HMAC-SHA256(pepper, SHA-256(secret)), so that a
SHA-256 digest from elsewhere is usable, and a stolen database is not without the pepper.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

PREFIX = "sk-gw-"
MIN_CHOSEN_LENGTH = 20
"""Of a secret that an admin chooses."""

_BLOCK = 64  # bytes that SHA-256 takes at once
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_public_id() -> str:
    """Ten characters that may be shown and logged; none is mistaken for another."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def new_secret(public_id: str) -> str:
    return f"{PREFIX}{public_id}-{secrets.token_urlsafe(32)}"


def shown_id(text: str) -> str:
    """The public id in a key as it is shown, `sk-gw-abc…`, or as it is sent; other text as it is."""
    return text.removeprefix(PREFIX).partition("-")[0].rstrip("….") if text.startswith(PREFIX) else text


class Pepper:
    """Makes digests under one pepper: HMAC-SHA256, with the key's part of the work done once."""

    def __init__(self, pepper: bytes) -> None:
        key = pepper if len(pepper) <= _BLOCK else hashlib.sha256(pepper).digest()
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, sha256: bytes) -> bytes:
        """The 32 bytes by which a secret with that SHA-256 is looked up."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(sha256)
        outer.update(inner.digest())
        return outer.digest()


def digest(secret: bytes, pepper: bytes) -> bytes:
    """The 32 bytes by which a presented secret is looked up."""
    return hmac.digest(pepper, hashlib.sha256(secret).digest(), "sha256")


def digest_of_sha256(sha256: bytes, pepper: bytes) -> bytes:
    """The digest of a secret of which only the SHA-256 is known, as in an import from elsewhere."""
    return hmac.digest(pepper, sha256, "sha256")


def pepper_fingerprint(pepper: bytes) -> str:
    """Names a pepper without telling it: 16 hex digits."""
    return hashlib.sha256(b"pepper:" + pepper).hexdigest()[:16]

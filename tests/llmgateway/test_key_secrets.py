"""Digests of secrets: one definition, computed in two ways."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from llmgateway.key_secrets import Pepper, digest, digest_of_sha256, new_public_id, new_secret, pepper_fingerprint


@given(secret=st.binary(min_size=1, max_size=200), pepper=st.binary(min_size=1, max_size=200))
def test_the_quick_digest_is_hmac_sha256_of_the_sha256(secret: bytes, pepper: bytes) -> None:
    sha256 = hashlib.sha256(secret).digest()

    assert Pepper(pepper).digest(sha256) == digest(secret, pepper) == digest_of_sha256(sha256, pepper)


def test_secrets_are_long_unlike_and_show_their_public_part() -> None:
    public_id = new_public_id()
    first, second = new_secret(public_id), new_secret(public_id)

    assert first != second
    assert first.startswith(f"sk-gw-{public_id}-")
    assert len(first) >= len(f"sk-gw-{public_id}-") + 43


def test_a_fingerprint_tells_peppers_apart_without_telling_them() -> None:
    assert pepper_fingerprint(b"one") != pepper_fingerprint(b"two")
    assert b"one".hex() not in pepper_fingerprint(b"one")

"""The adapter `zhipu` keeps the contract on its own fixtures."""

from __future__ import annotations

import jwt

from providers.adapters.registry import get_adapter
from tests.providers.contract import ProviderContract


class TestZhipu(ProviderContract):
    name = "zhipu"
    longest = 70


KEY = "0123abcd.secret-of-at-least-thirty-two-bytes-0001"


def test_a_key_with_an_id_signs_tokens_in_milliseconds() -> None:
    signer = get_adapter("zhipu").signer(KEY)
    assert signer is not None

    ((name, value),) = signer.headers("POST", "https://open.bigmodel.cn", b"{}", 1_700_000_000.5)

    token = value.removeprefix(b"Bearer ").decode()
    claims = jwt.decode(token, KEY.partition(".")[2], algorithms=["HS256"], options={"verify_exp": False})
    assert name == b"authorization"
    assert claims == {"api_key": "0123abcd", "exp": 1_700_003_600_500, "timestamp": 1_700_000_000_500}
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "sign_type": "SIGN", "typ": "JWT"}
    assert get_adapter("zhipu").headers(KEY) == ()


def test_a_token_serves_until_shortly_before_it_expires() -> None:
    signer = get_adapter("zhipu").signer(KEY)
    assert signer is not None

    first, second, third = (signer.headers("POST", "", b"", 1_700_000_000 + later) for later in (0, 3299, 3301))

    assert first == second
    assert third != first


def test_a_plain_key_is_sent_as_it_is() -> None:
    assert get_adapter("zhipu").signer("plain-key") is None
    assert get_adapter("zhipu").headers("plain-key") == ((b"authorization", b"Bearer plain-key"),)

"""Zhipu (GLM): https://docs.bigmodel.cn. Keys of the form `id.secret` sign short-lived tokens; others are sent as they are."""

from __future__ import annotations

from typing import ClassVar

import jwt

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, Headers, Operation, Signer, TokenRequest

TOKEN_S = 3600
EARLY_S = 300
"""A token is replaced so long before it expires: clocks differ, and requests take their time."""


class Zhipu(OpenAICompatible):
    name = "zhipu"
    trial_model = "glm-4.7"
    base_url = "https://open.bigmodel.cn/api/paas/v4"
    # https://docs.bigmodel.cn/cn/guide/capabilities/thinking-mode: thoughts must come back with the results of tools.
    extensions = frozenset({"reasoning_content", "thinking"})
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.EMBEDDINGS})
    api_key_variables = ("GLM_API_KEY",)
    # https://docs.bigmodel.cn/cn/api/api-code: out of money, prompt too long, unsafe content.
    error_codes: ClassVar[dict[str, ErrorKind]] = {
        "1113": ErrorKind.QUOTA_EXHAUSTED,
        "1261": ErrorKind.CONTEXT_TOO_LONG,
        "1301": ErrorKind.CONTENT_POLICY,
    }
    chat_output_caps = ("max_tokens",)

    def headers(self, secret: str | None) -> Headers:
        return () if secret and "." in secret else super().headers(secret)

    def signer(self, secret: str | None) -> Signer | None:
        return TokenSigner(secret) if secret and "." in secret else None


class TokenSigner:
    """Makes a token of its own accord and uses it until shortly before it expires."""

    def __init__(self, secret: str) -> None:
        self._id, _, self._key = secret.partition(".")
        self._token = b""
        self._until = 0.0

    def token_request(self, now: float) -> TokenRequest | None:
        return None

    def take_token(self, status: int, body: bytes, now: float) -> None:
        raise ValueError("no token was asked for")

    def headers(self, method: str, url: str, body: bytes, now: float) -> Headers:
        if now >= self._until:
            # In milliseconds, as its documentation asks.
            claims = {"api_key": self._id, "exp": int((now + TOKEN_S) * 1000), "timestamp": int(now * 1000)}
            self._token = jwt.encode(claims, self._key, algorithm="HS256", headers={"sign_type": "SIGN"}).encode()
            self._until = now + TOKEN_S - EARLY_S
        return ((b"authorization", b"Bearer " + self._token),)

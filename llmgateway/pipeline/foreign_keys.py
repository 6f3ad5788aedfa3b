"""Callers' own keys at providers: recognised by digest, sent on to the provider whose prefix was called and nowhere else."""

from __future__ import annotations

import re
from dataclasses import replace

from llmgateway.pipeline.errors import AuthenticationError, PermissionDeniedError
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, ForeignKeys

REMEMBERED = 10_000
"""Keys whose object is kept, for rules are found by it; then all are forgotten."""
_SENDABLE = re.compile(rb"[\x21-\x7e]{8,8192}")
"""What a header may hold. A key in a query could bring line breaks."""
_OURS = (b"sk-gw-", b"gw-mgmt-")
"""A key of the gateway that is revoked or mistyped must not be told to anybody."""


class ForeignKeyring:
    """Makes keys of secrets that the gateway does not know. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self._terms: ForeignKeys | None = None
        self._keys: dict[bytes, ForeignKey] = {}

    def key(self, secret: bytes, digests: tuple[bytes, ...], terms: ForeignKeys) -> ForeignKey | None:
        """None: it cannot be a provider's key.

        Raises:
            PermissionDeniedError: it is banned.
        """
        if secret.startswith(_OURS) or not _SENDABLE.fullmatch(secret):
            return None
        if not terms.banned.isdisjoint(digests):
            raise PermissionDeniedError("This key is banned from the gateway. Ask an admin why.", code="key_banned")
        if terms is not self._terms or len(self._keys) >= REMEMBERED:
            self._terms, self._keys = terms, {}
        digest = digests[0]
        found = self._keys.get(digest)
        if found is None:
            found = self._keys[digest] = ForeignKey(
                id=digest.hex(),
                public_id=digest.hex()[:16],
                name=f"own key {digest.hex()}",
                team_id=0,
                team_name="",
                limits=terms.limits,
                secret=secret.decode("ascii"),
            )
        return found


def on_own_account(
    key: ForeignKey, alias: Alias, deployments: tuple[Deployment, ...], provider: str
) -> tuple[Alias, tuple[Deployment, ...]]:
    """The one deployment of `provider` that is asked with the caller's key, at nobody's expense here.

    Its price and all budgets are left out, so that nothing can be held or charged, whatever changes meanwhile.

    Raises:
        AuthenticationError: the provider takes no such key.
    """
    there = next((each for each in deployments if each.provider == provider), None)
    free = replace(alias, budgets=()) if alias.budgets else alias
    if not provider or there is None:
        return free, ()
    try:
        headers, signer = there.adapter.headers(key.secret), there.adapter.signer(key.secret)
    except ValueError:  # Its text may quote from the key.
        raise _not_taken(provider) from None
    if signer is not None:
        # What such credentials hold can name addresses, and no caller may choose where the gateway sends requests.
        raise _not_taken(provider)
    own = replace(
        there,
        headers=headers,
        signer=None,
        prices=(),
        batch_prices=(),
        budgets=(),
        max_request_pico_usd=None,
        problem="",
    )
    return free, (own,)


def _not_taken(provider: str) -> AuthenticationError:
    return AuthenticationError(f"The provider '{provider}' takes no key of your own through this gateway.")

"""Callers' own keys at providers: recognised by digest, sent on to the provider that they are for and nowhere else.

One comes in place of a key of the gateway, below the provider's prefix, or beside one, and then for a provider that the
caller names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from llmgateway.pipeline.errors import AuthenticationError, BadRequestError, PermissionDeniedError
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, ForeignKeys, Key

KEY_HEADER = "x-gateway-provider-key"
"""Brings the caller's own key beside one of the gateway."""
PROVIDER_HEADER = "x-gateway-provider"
"""Whose key that is."""

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
        self._beside: dict[tuple[str, str, bytes], tuple[Key, ForeignKey]] = {}
        """With the key of the gateway that each came with."""

    def key(self, secret: bytes, digests: tuple[bytes, ...], terms: ForeignKeys) -> ForeignKey | None:
        """That of a caller without one of the gateway. None: it cannot be a provider's, or none is taken.

        Raises:
            PermissionDeniedError: it is banned.
        """
        if not terms.allowed or not _is_sendable(secret):
            return None
        self._take(digests, terms)
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
                digest=digest.hex(),
            )
        return found

    def beside(
        self, key: Key, secret: bytes, digests: tuple[bytes, ...], *, provider: str, terms: ForeignKeys | None
    ) -> ForeignKey:
        """`key` with the caller's own at `provider`, which pays there.

        Raises:
            BadRequestError: it cannot be a provider's key.
            PermissionDeniedError: the team may bring none, or this one is banned.
        """
        if not _is_sendable(secret):
            raise BadRequestError(
                f"`{KEY_HEADER}` must hold your key at the provider '{provider}', as the provider gave it to you. A key "
                "of the gateway is never sent on.",
                param=KEY_HEADER,
            )
        if terms is None or not terms.allow(key.team_id):
            raise _refused(key)
        self._take(digests, terms)
        place = key.id, provider, digests[0]
        known = self._beside.get(place)
        if known is not None and known[0] is key:
            return known[1]
        whose = {name: getattr(key, name) for name in Key.__struct_fields__}
        # In its team's name alone, and whatever was to be spent there is not.
        whose |= {"budgets": (), "tenants": ()}
        found = ForeignKey(
            **whose, secret=secret.decode("ascii"), digest=digests[0].hex(), provider=provider, is_stranger=False
        )
        self._beside[place] = key, found
        return found

    def _take(self, digests: tuple[bytes, ...], terms: ForeignKeys) -> None:
        """Raises PermissionDeniedError: it is banned."""
        if not terms.banned.isdisjoint(digests):
            raise PermissionDeniedError("This key is banned from the gateway. Ask an admin why.", code="key_banned")
        if terms is not self._terms or len(self._keys) + len(self._beside) >= REMEMBERED:
            self._terms, self._keys, self._beside = terms, {}, {}


def _is_sendable(secret: bytes) -> bool:
    return not secret.startswith(_OURS) and _SENDABLE.fullmatch(secret) is not None


def _refused(key: Key) -> PermissionDeniedError:
    whose = f"The team '{key.team_name}' may" if key.team_name else "Callers may"
    return PermissionDeniedError(
        f"{whose} not bring keys of providers. Leave out `{KEY_HEADER}` to use the gateway's credential, or ask an admin "
        "to allow own keys.",
        code="own_keys_refused",
    )


def on_own_account(
    key: ForeignKey, alias: Alias, reachable: Iterable[Deployment], provider: str
) -> tuple[Alias, tuple[Deployment, ...]]:
    """The one deployment of `provider` that is asked with the caller's key, at nobody's expense here.

    Its price and all budgets are left out, so that nothing can be held or charged, whatever changes meanwhile.

    Raises:
        AuthenticationError: the provider takes no such key.
        BadRequestError: the key is for another provider, or the model is not there.
    """
    if key.provider and provider and key.provider != provider:
        raise BadRequestError(other_provider(key.provider, provider), param=PROVIDER_HEADER)
    provider = provider or key.provider
    here = [each for each in reachable if each.provider == provider and provider]
    # One that has been taken out is sent nothing new, as long as there is another.
    there = next((each for each in here if not each.draining), here[0] if here else None)
    if there is None:
        raise BadRequestError(
            f"The model '{alias.name}' is not at the provider '{provider}', which your own key is for. Name a model that "
            "is there; GET /v1/models lists the models of a gateway key.",
            param="model",
        )
    free = replace(alias, budgets=()) if alias.budgets else alias
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


def other_provider(own: str, asked: str) -> str:
    return (
        f"Your own key is for the provider '{own}', and this call goes to '{asked}', which must not learn it. Name the "
        f"provider of the path in `{PROVIDER_HEADER}`, or call a path of '{own}'."
    )

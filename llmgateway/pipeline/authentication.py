"""Who is calling: the key a request presents, looked up in the ordered sources, and what it may do right now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from llmgateway.key_secrets import Pepper
from llmgateway.pipeline.errors import AuthenticationError, BadRequestError, PermissionDeniedError
from llmgateway.pipeline.foreign_keys import KEY_HEADER, ForeignKeyring
from llmgateway.pipeline.snapshot import ForeignKey, Key, KeyDigest, Snapshot, SourceRule, parse_address

KEYS_WITHOUT_SOURCES = (SourceRule("database", "database"),)


class Source(Protocol):
    """A place where keys are looked up, by the digests of the presented secret under each pepper.

    `find` answers from memory. A source that has to ask elsewhere returns None there and overrides `fetch`; it is
    awaited only for secrets that no earlier source knew. An error in a source is a denial, never a pass.
    """

    def find(self, digests: tuple[bytes, ...], snapshot: Snapshot) -> KeyDigest | None: ...

    async def fetch(self, digests: tuple[bytes, ...], snapshot: Snapshot) -> KeyDigest | None: ...


class MappedSource:
    """Keys that the snapshot holds: those of the database, or of one static file."""

    def __init__(self, rule: SourceRule) -> None:
        self._rule = rule

    def find(self, digests: tuple[bytes, ...], snapshot: Snapshot) -> KeyDigest | None:
        keys: Mapping[bytes, KeyDigest] = snapshot.keys if self._rule.kind == "database" else self._rule.keys
        for candidate in digests:
            found = keys.get(candidate)
            if found is not None:
                return found
        return None

    async def fetch(self, digests: tuple[bytes, ...], snapshot: Snapshot) -> KeyDigest | None:
        return None


class Authenticator:
    """Finds the key of a secret and decides whether it may be used from this address at this moment."""

    def __init__(self, peppers: tuple[bytes, ...]) -> None:
        self._peppers = tuple(map(Pepper, peppers))
        self._compiled_for: tuple[SourceRule, ...] = ()
        self._sources: tuple[Source, ...] = ()
        self._foreign = ForeignKeyring()

    async def authenticate(
        self, secret: bytes | None, *, client_ip: str, now: float, snapshot: Snapshot, takes_foreign: bool = False
    ) -> Key:
        """The key, if it may be used. With `takes_foreign` one that nobody knows may be the caller's own at a provider.

        Raises:
            AuthenticationError: no secret was presented, or none of the sources knows it.
            PermissionDeniedError: the key is known but may not be used (now, or from there).
        """
        if not secret:
            raise AuthenticationError(
                "No API key was sent. Send a gateway key as `Authorization: Bearer sk-gw-…`; an admin can create one."
            )
        digests = self._digests(secret)
        found = await self._find(digests, snapshot)
        if found is None and takes_foreign and snapshot.foreign is not None:
            foreign = self._foreign.key(secret, digests, snapshot.foreign)
            if foreign is not None:
                return foreign
        if found is None or (found.valid_until is not None and found.valid_until <= now):
            raise AuthenticationError("This API key is unknown or revoked. Check it, or ask an admin for a new one.")
        check(found.key, client_ip=client_ip, now=now)
        return found.key

    async def with_own_key(self, key: Key, secret: bytes, *, provider: str, snapshot: Snapshot) -> ForeignKey:
        """`key` with the caller's own at `provider`; raises what `ForeignKeyring.beside` raises."""
        digests = self._digests(secret)
        if await self._find(digests, snapshot) is not None:
            raise BadRequestError(
                f"`{KEY_HEADER}` holds a key of the gateway, which is not sent on. Send your key at '{provider}' there.",
                param=KEY_HEADER,
            )
        try:
            return self._foreign.beside(key, secret, digests, provider=provider, terms=snapshot.foreign)
        except PermissionDeniedError as error:
            error.key = key
            raise

    def known(self, secret: bytes, snapshot: Snapshot) -> KeyDigest | None:
        """The key of a secret, if it can be said without asking elsewhere and the first source knows it."""
        return self._sources_of(snapshot)[0].find(self._digests(secret), snapshot)

    def _digests(self, secret: bytes) -> tuple[bytes, ...]:
        sha256 = hashlib.sha256(secret).digest()
        return tuple([pepper.digest(sha256) for pepper in self._peppers])

    async def _find(self, digests: tuple[bytes, ...], snapshot: Snapshot) -> KeyDigest | None:
        for source in self._sources_of(snapshot):
            found = source.find(digests, snapshot) or await source.fetch(digests, snapshot)
            if found is not None:
                return found
        return None

    def _sources_of(self, snapshot: Snapshot) -> tuple[Source, ...]:
        if snapshot.sources is not self._compiled_for or not self._sources:
            self._compiled_for = snapshot.sources
            self._sources = tuple(MappedSource(rule) for rule in snapshot.sources or KEYS_WITHOUT_SOURCES)
        return self._sources


def check(key: Key, *, client_ip: str, now: float) -> None:
    """Raises PermissionDeniedError: the key may not be used now, or not from there."""
    try:
        _check_usable(key, now)
        _check_address(key, client_ip)
    except PermissionDeniedError as error:
        error.key = key
        raise


def keys_by_source(snapshot: Snapshot) -> Iterator[tuple[str, Mapping[bytes, KeyDigest]]]:
    """The names of the places where keys are looked up, in order, and what is there."""
    for rule in snapshot.sources or KEYS_WITHOUT_SOURCES:
        yield rule.name, snapshot.keys if rule.kind == "database" else rule.keys


def _check_usable(key: Key, now: float) -> None:
    if not key.enabled:
        raise PermissionDeniedError(
            f"API key '{key.name}' is disabled. Ask an admin to enable it.", code="key_disabled"
        )
    if key.starts_at is not None and now < key.starts_at:
        raise PermissionDeniedError(f"API key '{key.name}' is not valid yet.", code="key_not_yet_valid")
    if key.expires_at is not None and now >= key.expires_at:
        raise PermissionDeniedError(
            f"API key '{key.name}' has expired. Ask an admin for a new one.", code="key_expired"
        )


def _check_address(key: Key, client_ip: str) -> None:
    if key.networks is not None and parse_address(client_ip) not in key.networks:
        raise PermissionDeniedError(
            f"API key '{key.name}' may not be used from {client_ip or 'this address'}. "
            "Ask an admin to add the address to the key.",
            code="ip_not_allowed",
        )

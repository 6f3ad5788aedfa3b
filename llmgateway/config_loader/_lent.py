"""A hundred thousand keys whose shared rules changed a moment ago: each is renewed when it is asked for, or in its turn.

So a new limit for everyone holds from the next request on, and not when the last key has been exchanged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from llmgateway.config_loader._quotas import own_part
from llmgateway.config_loader._renewal import Renewal
from llmgateway.config_loader._values import SLICE
from llmgateway.pipeline.snapshot import KeyDigest, Limit

Keys = Mapping[bytes, KeyDigest]
TeamTime = tuple[int, str]
"""A team, and the time zone its keys know it by."""


class LentKeys(Mapping[bytes, KeyDigest]):
    """Stands in for the dictionary that it becomes (`settle`). Any thread may ask; each key is renewed once."""

    def __init__(
        self,
        known: dict[bytes, KeyDigest],
        renewal: Renewal,
        *,
        renewed: dict[bytes, KeyDigest],
        read: frozenset[bytes],
    ) -> None:
        """`renewed` are those of `known` that need no renewal, among them `read`, which were read just now.

        `known` stays as it is from here on.
        """
        self.known = known
        """All of them, most as they were before."""
        self.renewal = renewal
        self.renewed = renewed
        self._read = read
        self._rest = iter(known.items())

    def __getitem__(self, digest: bytes) -> KeyDigest:
        entry = self.get(digest)
        if entry is None:
            raise KeyError(digest)
        return entry

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def get(self, digest: bytes, default: KeyDigest | None = None) -> KeyDigest | None:  # type: ignore[override]
        entry = self.renewed.get(digest)
        if entry is None:
            entry = self.known.get(digest)
            if entry is None or (entry := self._renew(digest, entry)) is None:
                return default
        return entry

    def _renew(self, digest: bytes, entry: KeyDigest) -> KeyDigest | None:
        key = self.renewal.renewed(entry.key)
        if key is None:
            return None  # Its team is gone, which denies it.
        if key is not entry.key:
            entry = KeyDigest(key, entry.valid_until)
        # Two threads may have made one: all requests count by the same.
        return self.renewed.setdefault(digest, entry)

    def settle(self, pause: Callable[[], None], until: float) -> dict[bytes, KeyDigest] | None:
        """Renew one after the other until the `time.monotonic()` of `until`; all of them when it is done."""
        for number, (digest, entry) in enumerate(self._rest, start=1):
            if digest not in self.renewed:
                self._renew(digest, entry)
            if number % SLICE == 0:
                pause()
                if time.monotonic() >= until:
                    return None
        return self.renewed

    def samples(self) -> Keys:
        """Keys that were read just now, and one of each team: rules of others were not exchanged."""
        of_teams = set(one_of_each_team(self.known, without=self._read).values())
        return {digest: self[digest] for digest in of_teams | self._read if digest in self}

    def limits(self) -> Iterator[tuple[Limit, ...]]:
        """All that its keys have, those that keys share once. No key is renewed for it."""
        teams = set()
        for entry in self.known.values():
            teams.add(entry.key.team_id)
            own = own_part(entry.key.limits)
            if own:
                yield own
        for team_id in teams:
            yield self.renewal.rules.limits.shared(team_id)


def can_lend(keys: Keys, renewal: Renewal) -> bool:
    """Whether the keys' own rules stay what they are: they follow their team's time, and go with their team."""
    teams = renewal.rules.teams
    return all(
        team_id in teams and teams[team_id].time_zone == time_zone for team_id, time_zone in one_of_each_team(keys)
    )


def one_of_each_team(keys: Keys, *, without: frozenset[bytes] = frozenset()) -> dict[TeamTime, bytes]:
    return {(entry.key.team_id, entry.key.time_zone): digest for digest, entry in keys.items() if digest not in without}


def as_known(keys: Keys) -> Keys:
    """Every key as it is in memory, renewed or not; what it has of its own is right in any case."""
    return {**keys.known, **keys.renewed} if isinstance(keys, LentKeys) else keys


def exchanged(old: Keys, new: Keys) -> Iterator[tuple[KeyDigest | None, KeyDigest]]:
    """Keys of `new` that are not the very same as in `old`, from which it was made, and what they were there.

    Of a hundred thousand that only had rules of others exchanged, one of each team stands for all.
    """
    if isinstance(old, LentKeys) and old.renewed is new:
        return
    for digest, entry in (new.samples() if isinstance(new, LentKeys) else new).items():
        earlier = old.get(digest)
        if earlier is not entry:
            yield earlier, entry


def held_by(keys: Keys) -> list[object]:
    """What is freed with these keys."""
    if isinstance(keys, LentKeys):
        return [*keys.known, *keys.known.values(), *keys.renewed.values()]
    return [*keys, *keys.values()]

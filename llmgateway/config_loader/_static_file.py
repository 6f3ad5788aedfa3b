"""Keys from a YAML file on the gateway's host.

    keys:
      - name: batch-jobs
        sha256: 9f86d081…              # or `secret`, or `digest` as an export writes it
        team: platform                 # a team of the database, whose limits and budgets then hold too
        models: [gpt-4o-mini]
        allowed_ips: ["10.0.0.0/8"]
        starts_at: 2026-01-01T00:00:00Z
        expires_at: 2027-01-01T00:00:00Z
        limits: [{metric: requests, per: minute, amount: 60}]         # these two as in the configuration file
        budgets: [{name: day, window: day, limit_usd: "10"}]
        enabled: true
        user_id: ana
        priority: 10
        may_bypass_health: true
        tenants: [research]            # further teams that its requests may act for

What is wrong denies: a broken file has no keys, a broken entry is left out, and an unknown field is an error, for a
misspelt `expires_at` must not make a key that never expires.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llmgateway.config_loader._keys import AccessRules, acting_too
from llmgateway.config_loader._quotas import TeamFacts
from llmgateway.config_loader._static_fields import (
    Entry,
    EntryError,
    read_boolean,
    read_integer,
    read_moment,
    read_text,
    read_texts,
)
from llmgateway.config_loader._static_quotas import key_budgets, key_limits
from llmgateway.key_secrets import MIN_CHOSEN_LENGTH, digest, digest_of_sha256
from llmgateway.models import AuthSource
from llmgateway.pipeline.snapshot import ConfigProblem, Key, KeyDigest

FIELDS = frozenset({
    "name", "secret", "sha256", "digest", "team", "models", "allowed_ips", "starts_at", "expires_at", "limits",
    "budgets", "enabled", "user_id", "priority", "may_bypass_health", "tenants",
})  # fmt: skip


def load_static_file(
    source: AuthSource, rules: AccessRules, problems: list[ConfigProblem], *, pepper: bytes
) -> dict[bytes, KeyDigest]:
    """The file's keys by digest. Problems are appended; none of them lets anybody in."""

    def report(message: str) -> None:
        problems.append(ConfigProblem("llmgateway_authsource", str(source.pk), f"key source {source.name}", message))

    try:
        entries = _entries(Path(source.path))
    except EntryError as error:
        report(f"{source.path} {error} None of its keys is accepted.")
        return {}
    reader = _EntryReader(rules, pepper)
    keys: dict[bytes, KeyDigest] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        try:
            key_digest, key = reader.read(entry)
            if key.name in names or key_digest in keys:
                raise EntryError("name or secret stands in the file twice")
        except ValueError as error:
            label = entry.get("name") if isinstance(entry, dict) else None
            report(f"{source.path}, key {number} ({label or 'without a name'}): {error}. It is not accepted.")
            continue
        names.add(key.name)
        keys[key_digest] = KeyDigest(key)
    return keys


def _entries(path: Path) -> list[Any]:
    # Few gateways have such a file.
    import yaml

    # The C one is ten times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_bytes(), Loader=loader)  # noqa: S506  # It is a safe one.
    except OSError as error:
        raise EntryError(f"cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" near line {mark.line + 1}" if mark else ""
        raise EntryError(f"is not YAML{place}.") from error
    if not isinstance(content, dict) or set(content) != {"keys"} or not isinstance(content["keys"], list):
        raise EntryError("must hold `keys:` and a list below it, and nothing else.")
    return content["keys"]


class _EntryReader:
    """Turns entries into keys, with the teams, limits and budgets of the database."""

    def __init__(self, rules: AccessRules, pepper: bytes) -> None:
        self._rules = rules
        self._pepper = pepper
        self._teams = {team.name: (team_id, team) for team_id, team in rules.teams.items()}

    def read(self, entry: object) -> tuple[bytes, Key]:
        if not isinstance(entry, dict):
            raise EntryError("expected fields such as name and sha256")
        unknown = sorted(str(field) for field in set(entry) - FIELDS)
        if unknown:
            raise EntryError(f"{', '.join(unknown)} is not a field; there are {', '.join(sorted(FIELDS))}")
        name = read_text(entry, "name")
        if not name:
            raise EntryError("name is missing")
        team_id, team = self._team(entry)
        key_id, time_zone = f"file:{name}", team.time_zone if team else "UTC"
        key_digest = self._digest(entry)
        models = read_texts(entry, "models")
        allowed_ips = read_texts(entry, "allowed_ips")
        tenants = [self._known_team(tenant)[0] for tenant in read_texts(entry, "tenants")]
        key = Key(
            id=key_id,
            public_id=hashlib.sha256(key_digest).hexdigest()[:10],
            name=name,
            team_id=team_id,
            team_name=team.name if team else "",
            enabled=read_boolean(entry, "enabled", default=True),
            starts_at=read_moment(entry, "starts_at"),
            expires_at=read_moment(entry, "expires_at"),
            models=frozenset(models) or None,
            networks=self._rules.networks.compile((), allowed_ips),
            limits=(*key_limits(entry, key_id, time_zone), *self._rules.limits.shared(team_id)),
            budgets=(*key_budgets(entry, key_id, time_zone), *self._rules.budgets.shared(team_id)),
            user_id=read_text(entry, "user_id"),
            priority=read_integer(entry, "priority", 0, at_least=-100, at_most=100),
            may_bypass_health=read_boolean(entry, "may_bypass_health", default=False),
            time_zone=time_zone,
        )
        return key_digest, acting_too(key, dict.fromkeys(tenants), self._rules) if tenants else key

    def _team(self, entry: Entry) -> tuple[int, TeamFacts | None]:
        name = read_text(entry, "team")
        return self._known_team(name) if name else (0, None)

    def _known_team(self, name: str) -> tuple[int, TeamFacts]:
        if name not in self._teams:
            raise EntryError(f"there is no team {name or 'without a name'}; create it or correct the name")
        return self._teams[name]

    def _digest(self, entry: Entry) -> bytes:
        given = [field for field in ("secret", "sha256", "digest") if entry.get(field)]
        if len(given) != 1:
            raise EntryError("write one of secret, sha256 and digest")
        text = read_text(entry, given[0])
        if given[0] == "secret":
            if len(text) < MIN_CHOSEN_LENGTH:
                raise EntryError(f"secret has fewer than {MIN_CHOSEN_LENGTH} characters")
            return digest(text.encode(), self._pepper)
        try:
            number = bytes.fromhex(text)
        except ValueError:
            number = b""
        if len(number) != 32:
            raise EntryError(f"{given[0]} is not 64 hexadecimal digits")
        return digest_of_sha256(number, self._pepper) if given[0] == "sha256" else number

"""Keys from a YAML file on the gateway's host.

    keys:
      - name: batch-jobs
        sha256: 9f86d081…              # or `secret`, or `digest` as an export writes it
        team: platform                 # a team of the database, whose limits and budgets then hold too
        models: [gpt-4o-mini]
        allowed_ips: ["10.0.0.0/8"]
        starts_at: 2026-01-01T00:00:00Z
        expires_at: 2027-01-01T00:00:00Z
        limits: [{metric: requests, per: minute, amount: 60}]
        budgets: [{name: day, window: day, limit_usd: "10"}]
        enabled: true
        user_id: ana

What is wrong denies: a broken file has no keys, a broken entry is left out, and an unknown field is an error, for a
misspelt `expires_at` must not make a key that never expires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from billing.models import Budget
from billing.money import MAX_LIMIT_USD, PICO_PER_USD, pico_from_usd
from llmgateway.config_loader._keys import AccessRules
from llmgateway.config_loader._quotas import TeamFacts, limit_name
from llmgateway.key_secrets import MIN_CHOSEN_LENGTH, digest, digest_of_sha256
from llmgateway.models import AuthSource, RateLimit
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, Key, KeyDigest, Limit

Entry = Mapping[str, Any]

FIELDS = frozenset({
    "name", "secret", "sha256", "digest", "team", "models", "allowed_ips", "starts_at", "expires_at", "limits",
    "budgets", "enabled", "user_id",
})  # fmt: skip


class _EntryError(ValueError):
    """An entry that cannot be used. The message names the field and never quotes a secret."""


def load_static_file(
    source: AuthSource, rules: AccessRules, problems: list[ConfigProblem], *, pepper: bytes
) -> dict[bytes, KeyDigest]:
    """The file's keys by digest. Problems are appended; none of them lets anybody in."""

    def report(message: str) -> None:
        problems.append(ConfigProblem("llmgateway_authsource", str(source.pk), f"key source {source.name}", message))

    try:
        entries = _entries(Path(source.path))
    except _EntryError as error:
        report(f"{source.path} {error} None of its keys is accepted.")
        return {}
    reader = _EntryReader(rules, pepper)
    keys: dict[bytes, KeyDigest] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        try:
            key_digest, key = reader.read(entry)
            if key.name in names or key_digest in keys:
                raise _EntryError("name or secret stands in the file twice")
        except ValueError as error:
            label = entry.get("name") if isinstance(entry, dict) else None
            report(f"{source.path}, key {number} ({label or 'without a name'}): {error}. It is not accepted.")
            continue
        names.add(key.name)
        keys[key_digest] = KeyDigest(key)
    return keys


def _entries(path: Path) -> list[Any]:
    try:
        content = yaml.load(path.read_bytes(), Loader=_SafeLoader)  # noqa: S506  # It is the safe one.
    except OSError as error:
        raise _EntryError(f"cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" near line {mark.line + 1}" if mark else ""
        raise _EntryError(f"is not YAML{place}.") from error
    if not isinstance(content, dict) or set(content) != {"keys"} or not isinstance(content["keys"], list):
        raise _EntryError("must hold `keys:` and a list below it, and nothing else.")
    return content["keys"]


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C one is ten times as fast, where PyYAML was built with it."""


class _EntryReader:
    """Turns entries into keys, with the teams, limits and budgets of the database."""

    def __init__(self, rules: AccessRules, pepper: bytes) -> None:
        self._rules = rules
        self._pepper = pepper
        self._teams = {team.name: (team_id, team) for team_id, team in rules.teams.items()}

    def read(self, entry: object) -> tuple[bytes, Key]:
        if not isinstance(entry, dict):
            raise _EntryError("expected fields such as name and sha256")
        unknown = sorted(str(field) for field in set(entry) - FIELDS)
        if unknown:
            raise _EntryError(f"{', '.join(unknown)} is not a field; there are {', '.join(sorted(FIELDS))}")
        name = _text(entry, "name")
        if not name:
            raise _EntryError("name is missing")
        team_id, team = self._team(entry)
        key_id = f"file:{name}"
        key_digest = self._digest(entry)
        models = _texts(entry, "models")
        allowed_ips = _texts(entry, "allowed_ips")
        return key_digest, Key(
            id=key_id,
            public_id=hashlib.sha256(key_digest).hexdigest()[:10],
            name=name,
            team_id=team_id,
            team_name=team.name if team else "",
            enabled=_boolean(entry, "enabled", default=True),
            starts_at=_moment(entry, "starts_at"),
            expires_at=_moment(entry, "expires_at"),
            models=frozenset(models) or None,
            networks=self._rules.networks.compile((), allowed_ips),
            limits=(*_limits(entry, key_id), *self._rules.limits.shared(team_id)),
            budgets=(*_budgets(entry, key_id, team), *self._rules.budgets.shared(team_id)),
            user_id=_text(entry, "user_id"),
        )

    def _team(self, entry: Entry) -> tuple[int, TeamFacts | None]:
        name = _text(entry, "team")
        if not name:
            return 0, None
        if name not in self._teams:
            raise _EntryError(f"there is no team {name}; create it or correct the name")
        return self._teams[name]

    def _digest(self, entry: Entry) -> bytes:
        given = [field for field in ("secret", "sha256", "digest") if entry.get(field)]
        if len(given) != 1:
            raise _EntryError("write one of secret, sha256 and digest")
        text = _text(entry, given[0])
        if given[0] == "secret":
            if len(text) < MIN_CHOSEN_LENGTH:
                raise _EntryError(f"secret has fewer than {MIN_CHOSEN_LENGTH} characters")
            return digest(text.encode(), self._pepper)
        try:
            number = bytes.fromhex(text)
        except ValueError:
            number = b""
        if len(number) != 32:
            raise _EntryError(f"{given[0]} is not 64 hexadecimal digits")
        return digest_of_sha256(number, self._pepper) if given[0] == "sha256" else number


def _limits(entry: Entry, key_id: str) -> Iterator[Limit]:
    seen: set[tuple[str, str]] = set()
    for item in _objects(entry, "limits", {"metric", "per", "amount", "burst"}):
        metric, per = item.get("metric"), item.get("per")
        if metric not in RateLimit.Metric.values or per not in RateLimit.Period.values:
            raise _EntryError("limits: only `metric: requests, per: minute` is known")
        if (metric, per) in seen:
            raise _EntryError(f"limits: {metric} per {per} stands there twice")
        seen.add((metric, per))
        amount = _count(item, "amount")
        burst = amount if item.get("burst") is None else _count(item, "burst")
        yield Limit(f"limit:{key_id}:{metric}:{per}", limit_name(amount), "key", amount, burst)


def _budgets(entry: Entry, key_id: str, team: TeamFacts | None) -> Iterator[BudgetRule]:
    seen: set[str] = set()
    for item in _objects(entry, "budgets", {"name", "window", "limit_usd", "mode"}):
        name, window = _text(item, "name"), item.get("window")
        if not name or name in seen:
            raise _EntryError("budgets: each needs a name of its own")
        seen.add(name)
        if window not in Budget.Window.values:
            raise _EntryError(f"budgets: window is one of {', '.join(Budget.Window.values)}")
        if item.get("mode", Budget.Mode.EXPECTED) not in Budget.Mode.values:
            raise _EntryError(f"budgets: mode is one of {', '.join(Budget.Mode.values)}")
        yield BudgetRule(
            id=_budget_id(key_id, name),
            name=name,
            scope="key",
            scope_id=key_id,
            window=str(window),
            limit_pico_usd=_limit_usd(item),
            time_zone=team.time_zone if team else "UTC",
        )


def _budget_id(key_id: str, name: str) -> int:
    """Stable and negative, so that it never meets a row's id."""
    return -1 - int.from_bytes(hashlib.sha256(f"{key_id}/{name}".encode()).digest()[:7])


def _limit_usd(item: Entry) -> int:
    value = item.get("limit_usd")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _EntryError('budgets: limit_usd is an amount such as "10.50"')
    amount = pico_from_usd(str(value))
    if not 0 <= amount <= MAX_LIMIT_USD * PICO_PER_USD:
        raise _EntryError(f"budgets: limit_usd is between 0 and {MAX_LIMIT_USD}")
    return amount


def _objects(entry: Entry, field: str, allowed: set[str]) -> list[Entry]:
    values = entry.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise _EntryError(f"{field} is a list of objects")
    for value in values:
        unknown = sorted(str(name) for name in set(value) - allowed)
        if unknown:
            raise _EntryError(f"{field}: {', '.join(unknown)} is not a field")
    return values


def _text(entry: Entry, field: str) -> str:
    value = entry.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _EntryError(f"{field} is not text; put it in quotes")
    return value


def _texts(entry: Entry, field: str) -> tuple[str, ...]:
    values = entry.get(field)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _EntryError(f"{field} is a list of texts")
    return tuple(values)


def _boolean(entry: Entry, field: str, *, default: bool) -> bool:
    value = entry.get(field, default)
    if not isinstance(value, bool):
        raise _EntryError(f"{field} is true or false")
    return value


def _count(entry: Entry, field: str) -> int:
    value = entry.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _EntryError(f"limits: {field} is a whole number of at least 0")
    return value


def _moment(entry: Entry, field: str) -> float | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _EntryError(f"{field} is not a moment such as 2027-01-01T00:00:00Z") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise _EntryError(f"{field} is not a moment such as 2027-01-01T00:00:00Z")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()

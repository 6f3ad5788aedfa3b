"""Key rows to what the hot path looks up: keys by digest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from llmgateway.config_loader._budgets import load_budgets
from llmgateway.config_loader._limits import load_limits
from llmgateway.config_loader._networks import NetworkCompiler, load_network_lists, load_ties
from llmgateway.config_loader._quotas import OwnerNames, Quotas, TeamFacts, load_teams, own_part
from llmgateway.config_loader._values import as_number, as_text, epoch, in_slices, text_set, texts
from llmgateway.models import ApiKey, KeyTenant
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, Key, KeyDigest, Limit, Snapshot

NOTHING = Snapshot()

COLUMNS = (
    "id",
    "public_id",
    "name",
    "team_id",
    "digest",
    "previous_digest",
    as_text("previous_valid_until"),
    "user_id",
    as_text("allowed_models"),
    as_text("allowed_ips"),
    as_number("enabled"),
    as_text("starts_at"),
    as_text("expires_at"),
    "priority",
    as_number("may_bypass_health"),
)


@dataclass(slots=True)
class AccessRules:
    """What keys refer to, read once for all of them."""

    teams: dict[int, TeamFacts]
    limits: Quotas[Limit]
    budgets: Quotas[BudgetRule]
    networks: NetworkCompiler
    ties: dict[int, tuple[int, ...]]
    """The network lists of each key."""
    tenants: dict[int, tuple[int, ...]]
    """The further teams that each key may act for."""

    def all_budgets(self) -> dict[int, BudgetRule]:
        """To be asked before keys take theirs."""
        groups = (self.budgets.everyone, *self.budgets.by_team.values(), *self.budgets.by_key.values())
        return {rule.id: rule for group in groups for rule in group}


def load_rules(
    problems: list[ConfigProblem],
    key_ids: Collection[int] | None = None,
    *,
    before: Snapshot = NOTHING,
    pause: Callable[[], None],
) -> AccessRules:
    """With `key_ids`, what concerns these keys alone. Limits and budgets that are the same in `before` are taken
    from there."""
    teams, names = load_teams(problems), OwnerNames(before.keys)
    return AccessRules(
        teams=teams,
        limits=load_limits(problems, teams, key_ids, before=before.keys, names=names, pause=pause),
        budgets=load_budgets(problems, teams, key_ids, before=before.budgets, names=names, pause=pause),
        networks=NetworkCompiler(load_network_lists(problems)),
        ties=load_ties(key_ids, pause=pause),
        tenants=_load_tenants(key_ids, pause),
    )


def load_keys(
    rules: AccessRules,
    problems: list[ConfigProblem],
    key_ids: Collection[int] | None = None,
    *,
    before: Mapping[bytes, KeyDigest] = NOTHING.keys,
    pause: Callable[[], None],
) -> dict[bytes, KeyDigest]:
    """Every key that is not revoked, by digest. A key that cannot be read is left out, which denies it.

    One that is the same in `before` is taken from there.
    """
    rows = ApiKey.objects.filter(revoked_at__isnull=True).order_by()
    if key_ids is not None:
        rows = rows.filter(pk__in=key_ids)
    keys: dict[bytes, KeyDigest] = {}
    for row in in_slices(rows.values_list(*COLUMNS), pause):
        try:
            _add_key(keys, row, rules, before)
        except (ValueError, TypeError) as error:
            message = f"its row cannot be read ({error}); requests with it are refused. Save it again in the admin."
            problems.append(ConfigProblem("llmgateway_apikey", str(row[0]), f"key {row[2]}", message))
    return keys


def _add_key(
    keys: dict[bytes, KeyDigest], row: tuple[Any, ...], rules: AccessRules, before: Mapping[bytes, KeyDigest]
) -> None:
    (
        key_id,
        public_id,
        name,
        team_id,
        digest,
        previous_digest,
        previous_valid_until,
        user_id,
        allowed_models,
        allowed_ips,
        enabled,
        starts_at,
        expires_at,
        priority,
        may_bypass_health,
    ) = row
    team = rules.teams.get(team_id)
    if team is None:
        raise ValueError("its team is missing")
    key = Key(
        str(key_id),
        public_id,
        name,
        team_id,
        team.name,
        bool(enabled),
        epoch(starts_at),
        epoch(expires_at),
        text_set(allowed_models),
        rules.networks.compile(rules.ties.get(key_id, ()), texts(allowed_ips)),
        rules.limits.taken_by(key_id, team_id),
        rules.budgets.taken_by(key_id, team_id),
        user_id,
        priority,
        bool(may_bypass_health),
        team.time_zone,
    )
    tenants = rules.tenants.get(key_id)
    if tenants:
        key = acting_too(key, tenants, rules)
    if previous_digest and previous_valid_until:
        earlier = _digest(previous_digest)
        keys.setdefault(earlier, _known(before, earlier, KeyDigest(key, epoch(previous_valid_until))))
    newest = _digest(digest)
    keys[newest] = _known(before, newest, KeyDigest(key))


def _load_tenants(key_ids: Collection[int] | None, pause: Callable[[], None]) -> dict[int, tuple[int, ...]]:
    rows = KeyTenant.objects.order_by("key_id", "team__name")
    if key_ids is not None:
        rows = rows.filter(key_id__in=key_ids)
    tenants: dict[int, tuple[int, ...]] = {}
    for key_id, team_id in in_slices(rows.values_list("key_id", "team_id"), pause):
        tenants[key_id] = (*tenants.get(key_id, ()), team_id)
    return tenants


def acting_too(key: Key, team_ids: Iterable[int], rules: AccessRules) -> Key:
    """The key with itself as each of these other teams: its own rules, that team's and everyone's. Its own rules stay
    the same ones, in its own team's time, so that whoever it acts for they count together."""
    limits, budgets = own_part(key.limits), own_part(key.budgets)
    tenants = tuple(
        structs.replace(
            key,
            team_id=team_id,
            team_name=team.name,
            limits=rules.limits.joined(limits, team_id),
            budgets=rules.budgets.joined(budgets, team_id),
            tenants=(),
            time_zone=team.time_zone,
        )
        for team_id in team_ids
        if team_id != key.team_id and (team := rules.teams.get(team_id)) is not None
    )
    return structs.replace(key, tenants=tenants)


def _known(before: Mapping[bytes, KeyDigest], digest: bytes, entry: KeyDigest) -> KeyDigest:
    """The entry that was there before, where it is the same."""
    was = before.get(digest)
    return entry if was is None or was != entry else was


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32:
        raise ValueError("its digest is not 32 bytes")
    return digest

"""Keys of a YAML file: everything is read, and whatever is wrong denies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from llmgateway.config_loader import load_snapshot
from llmgateway.models import AuthSource
from llmgateway.pipeline.snapshot import Key, KeyDigest, Snapshot, parse_address
from tests.llmgateway.live_config.conftest import NEW_YEAR, World, digest_of

SECRET = "a-secret-that-is-long-enough"
SHA256 = hashlib.sha256(SECRET.encode()).hexdigest()

Load = Callable[[str], Snapshot]


@pytest.fixture
def load(world: World, tmp_path: Path) -> Load:
    """A snapshot with a file of that content as a source."""

    def load(content: str) -> Snapshot:
        file = tmp_path / "keys.yaml"
        file.write_text(content)
        AuthSource.objects.create(name="file", kind="static_file", path=str(file))
        return load_snapshot()

    return load


def _keys(snapshot: Snapshot) -> dict[bytes, KeyDigest]:
    return dict(snapshot.sources[0].keys)


def _only_key(snapshot: Snapshot) -> Key:
    (entry,) = _keys(snapshot).values()
    return entry.key


def test_everything_a_key_can_say(load: Load, world: World) -> None:
    snapshot = load(
        f"""
keys:
  - name: batch
    sha256: {SHA256}
    team: research
    models: [small]
    allowed_ips: ["10.0.0.0/8"]
    starts_at: 2026-01-01T00:00:00Z
    expires_at: 2027-01-01
    limits: [{{metric: requests, per: minute, amount: 60, burst: 3}}]
    budgets: [{{name: day, window: day, limit_usd: "10.50", mode: expected}}]
    enabled: false
    user_id: ana
    priority: -7
    may_bypass_health: true
"""
    )

    key = _only_key(snapshot)
    assert snapshot.problems == ()
    assert (key.id, key.name, key.team_id, key.team_name) == ("file:batch", "batch", world.research.pk, "research")
    assert (key.models, key.enabled, key.user_id) == (frozenset({"small"}), False, "ana")
    assert (key.priority, key.may_bypass_health, key.tenants) == (-7, True, ())
    assert (key.starts_at, key.expires_at) == (NEW_YEAR.timestamp(), NEW_YEAR.timestamp() + 365 * 86_400)
    assert key.networks is not None
    assert parse_address("10.1.1.1") in key.networks
    assert parse_address("192.0.2.1") not in key.networks
    assert [(limit.scope, limit.amount, limit.burst) for limit in key.limits] == [("key", 60, 3), ("global", 500, 500)]
    own, *others = key.budgets
    assert (own.scope, own.scope_id, own.window, own.limit_pico_usd) == ("key", "file:batch", "day", 10_500_000_000_000)
    assert [rule.name for rule in others] == ["month", "all"]
    assert own.id < 0
    assert snapshot.budgets[own.id] == own


@pytest.mark.parametrize(
    "field", [f"secret: {SECRET}", f"sha256: {SHA256}", "digest: {digest}"], ids=["secret", "sha256", "digest"]
)
def test_a_secret_may_be_given_in_three_ways(load: Load, field: str) -> None:
    snapshot = load(f"keys: [{{name: a, {field.replace('{digest}', digest_of(SECRET).hex())}}}]")

    assert list(_keys(snapshot)) == [digest_of(SECRET)]


def test_a_key_without_a_team_has_everyones_rules_alone(load: Load) -> None:
    key = _only_key(load(f"keys: [{{name: a, sha256: {SHA256}}}]"))

    assert (key.team_id, key.team_name, key.networks, key.models) == (0, "", None, None)
    assert [limit.scope for limit in key.limits] == ["global"]
    assert [rule.scope for rule in key.budgets] == ["global"]


def test_a_key_acts_for_further_teams_by_their_rules_and_its_own(load: Load, world: World) -> None:
    key = _only_key(
        load(
            f"keys: [{{name: a, sha256: {SHA256}, team: platform, tenants: [research, platform, research], "
            "limits: [{metric: requests, per: minute, amount: 60}]}]"
        )
    )

    assert [tenant.team_name for tenant in key.tenants] == ["research"]
    as_research = key.acting_for("research")
    assert as_research is not None
    assert (as_research.id, as_research.team_id) == ("file:a", world.research.pk)
    assert [limit.amount for limit in as_research.limits] == [60, 500]
    assert [rule.name for rule in as_research.budgets] == ["month", "all"]
    assert [limit.amount for limit in key.limits] == [60, 50, 500]
    assert key.acting_for("nobody") is None


@pytest.mark.parametrize("content", ["keys: [", "[]", "key: []", "keys: {}", "keys: []\nmore: 1", "\x00", ""])
def test_a_broken_file_has_no_keys_and_is_a_problem(load: Load, content: str) -> None:
    snapshot = load(content)

    assert _keys(snapshot) == {}
    (problem,) = snapshot.problems
    assert problem.name == "key source file"
    assert problem.message.endswith("None of its keys is accepted.")


def test_a_missing_file_has_no_keys_and_is_a_problem(world: World) -> None:
    AuthSource.objects.create(name="file", kind="static_file", path="/no/such/file.yaml")

    snapshot = load_snapshot()

    assert _keys(snapshot) == {}
    assert "cannot be read: No such file or directory" in snapshot.problems[0].message
    assert snapshot.watched_files == ("/no/such/file.yaml",)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (f"sha256: {SHA256}", "name is missing"),
        ("name: bad", "write one of secret, sha256 and digest"),
        (f"name: bad, sha256: {SHA256}, secret: {SECRET}", "write one of secret, sha256 and digest"),
        ("name: bad, secret: short", "secret has fewer than 20 characters"),
        ("name: bad, sha256: abcd", "sha256 is not 64 hexadecimal digits"),
        (f"name: bad, sha256: {SHA256}, expire_at: 2026-01-01", "expire_at is not a field"),
        (f"name: bad, sha256: {SHA256}, expires_at: soon", "expires_at is not a moment"),
        (f"name: bad, sha256: {SHA256}, team: nobody", "there is no team nobody"),
        (f"name: bad, sha256: {SHA256}, models: small", "models is a list of texts"),
        (f"name: bad, sha256: {SHA256}, allowed_ips: [garbage]", "garbage"),
        (f"name: bad, sha256: {SHA256}, enabled: 'no'", "enabled is true or false"),
        (f"name: bad, sha256: {SHA256}, limits: [{{metric: requests, per: minute}}]", "amount is a whole number"),
        (
            f"name: bad, sha256: {SHA256}, limits: [{{metric: bananas, per: minute, amount: 1}}]",
            "limits: metric: Value 'bananas' is not a valid choice",
        ),
        (f"name: bad, sha256: {SHA256}, limits: [{{amount: 1, shade: true}}]", "shade is not a field"),
        (
            f"name: bad, sha256: {SHA256}, limits: [{{metric: concurrency, per: minute, amount: 1}}]",
            "limits: per: Concurrent requests have no period",
        ),
        (
            f"name: bad, sha256: {SHA256}, limits: [{{metric: tokens, per: total, amount: 1, reset: soon}}]",
            "limits: reset: 'soon' is not a time span",
        ),
        (
            f"name: bad, sha256: {SHA256}, limits: [{{metric: tokens, per: week, amount: 1, starts_on: 3}}]",
            "limits: starts_on: '3' is not a day on which a week can begin",
        ),
        (
            f"name: bad, sha256: {SHA256}, limits: [{{metric: tokens, per: day, amount: 1, scope: planet}}]",
            "limits: scope: Value 'planet' is not a valid choice",
        ),
        (
            f"name: bad, sha256: {SHA256}, limits: [&a {{metric: tokens, per: day, amount: 1}}, *a]",
            "limits: 1 token per day stands there twice",
        ),
        (
            f"name: bad, sha256: {SHA256}, budgets: [{{name: a, window: decade, limit_usd: 1}}]",
            "budgets: window: Value 'decade' is not a valid choice",
        ),
        (
            f"name: bad, sha256: {SHA256}, budgets: [{{name: a, window: day, limit_usd: -1}}]",
            "budgets: limit_usd: Ensure this value is greater than or equal to 0",
        ),
        (f"name: bad, sha256: {SHA256}, budgets: [{{name: a, window: day}}]", "limit_usd is an amount"),
        (
            f"name: bad, sha256: {SHA256}, budgets: [{{window: day, limit_usd: 1}}]",
            "budgets: name: This field cannot be blank",
        ),
        (
            f"name: bad, sha256: {SHA256}, budgets: [&a {{name: a, window: day, limit_usd: 1}}, *a]",
            "each needs a name of its own",
        ),
        (
            (
                f"name: bad, sha256: {SHA256}, "
                "budgets: [{name: a, window: day, limit_usd: 1, credits: [{amount_usd: 1}]}]"
            ),
            "credits are for `window: total`",
        ),
        (
            (
                f"name: bad, sha256: {SHA256}, "
                "budgets: [{name: a, window: day, limit_usd: 1, increase: {amount_usd: 1}}]"
            ),
            "budgets: increase_until: An increase is for a time",
        ),
        (f"name: bad, sha256: {SHA256}, priority: 101", "priority is a whole number from -100 to 100"),
        (f"name: bad, sha256: {SHA256}, priority: true", "priority is a whole number from -100 to 100"),
        (f"name: bad, sha256: {SHA256}, may_bypass_health: 1", "may_bypass_health is true or false"),
        (f"name: bad, sha256: {SHA256}, tenants: research", "tenants is a list of texts"),
        (f"name: bad, sha256: {SHA256}, tenants: [nobody]", "there is no team nobody"),
        (f"name: bad, sha256: {SHA256}, tenants: ['']", "there is no team without a name"),
        ("name: good, sha256: " + "ef" * 32, "stands in the file twice"),
    ],
)
def test_a_broken_entry_is_left_out_and_the_others_work(load: Load, entry: str, reason: str) -> None:
    snapshot = load(f"keys: [{{name: good, sha256: {'cd' * 32}}}, {{{entry}}}]")

    assert [key.key.name for key in _keys(snapshot).values()] == ["good"]
    (problem,) = snapshot.problems
    assert "key 2" in problem.message
    assert reason in problem.message


def test_an_entry_that_is_no_object_is_left_out(load: Load) -> None:
    snapshot = load("keys: [just-text]")

    assert _keys(snapshot) == {}
    assert "key 1 (without a name): expected fields" in snapshot.problems[0].message


def test_problems_quote_no_secret(load: Load) -> None:
    snapshot = load(f"keys: [{{name: a, secret: {SECRET}, oops: 1}}, {{name: b, secret: hidden-text}}]")

    text = " ".join(map(str, snapshot.problems))
    assert len(snapshot.problems) == 2
    assert SECRET not in text
    assert "hidden-text" not in text

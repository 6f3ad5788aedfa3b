"""Rows of aliases to what the hot path follows: rules, fallbacks, nesting, and what SQL may have written past checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from llmgateway.conf import Conf
from llmgateway.config_loader import load_snapshot
from llmgateway.models import ApiKey, GatewaySettings, KeyTenant, RateLimit, Team
from llmgateway.pipeline.route_rules import (
    CacheRule,
    CacheSettings,
    CircuitRules,
    Fallback,
    FallbackCause,
    HedgeRule,
    LoadRules,
    MirrorRule,
    Parameters,
    Patience,
    Probe,
)
from llmgateway.pipeline.snapshot import Alias, Snapshot
from providers.alias_graph import order_of
from providers.models import AliasFallback, AliasRule, AliasTarget, Deployment, ModelAlias
from tests.llmgateway.live_config.conftest import World, key_of


def _loaded(name: str = "small") -> Alias:
    return load_snapshot().aliases[name]


def _other(name: str = "other", **columns: object) -> ModelAlias:
    return ModelAlias.objects.create(name=name, **columns)


def _sql(statement: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute(statement, values)
        cursor.execute("PRAGMA ignore_check_constraints = OFF")


def _messages(snapshot: Snapshot) -> str:
    return "\n".join(str(problem) for problem in snapshot.problems)


def test_an_alias_as_it_is_made_says_nothing_of_its_own(world: World) -> None:
    alias = _loaded()

    assert (alias.rules, alias.fallbacks, alias.sticky, alias.strategy) == ((), (), "", "weighted")
    extras = (alias.parameters, alias.patience, alias.retries, alias.cache, alias.hedge, alias.mirror)
    assert extras == (None,) * 6


def test_what_an_operator_decides_arrives(world: World) -> None:
    other, vectors = _other(), _other("vectors")
    ModelAlias.objects.filter(pk=world.alias.pk).update(
        strategy="lowest_cost", sticky="session", parameter_defaults={"temperature": 0.5},
        parameter_overrides={"seed": None}, first_token_timeout_s=1.5, total_timeout_s=20, retry_attempts=0,
        cache_ttl_s=60, cache_mode="semantic", cache_similarity=0.9, cache_embeddings=vectors, cache_generation=3,
        hedge_max_pico_usd=7, hedge_after_s=0.5, mirror_alias=other, mirror_percent=25,
    )  # fmt: skip

    alias = _loaded()

    assert (alias.strategy, alias.sticky, alias.retries) == ("lowest_cost", "session", 0)
    assert alias.parameters == Parameters({"temperature": 0.5}, {"seed": None})
    assert alias.patience == Patience(1.5, None, 20)
    assert alias.cache == CacheRule(60, "semantic", 0.9, "vectors", 3)
    assert (alias.hedge, alias.mirror) == (HedgeRule(7, 0.5), MirrorRule("other", 0.25))


def test_rules_and_fallbacks_stand_in_order(world: World) -> None:
    first, second = _other("first"), _other("second")
    AliasRule.objects.create(alias=world.alias, name="b", when='team == "red"', use=second, position=2)
    AliasRule.objects.create(alias=world.alias, name="a", when="request.stream", use=first, position=1)
    AliasRule.objects.create(alias=world.alias, name="off", when="true", use=first, enabled=False)
    AliasFallback.objects.create(alias=world.alias, use=second, position=1)
    AliasFallback.objects.create(alias=world.alias, use=first, cause="context_too_long")

    alias = _loaded()

    assert [(rule.name, rule.use) for rule in alias.rules] == [("a", "first"), ("b", "second")]
    assert [rule.program.execute({"team": "red"}) for rule in alias.rules[1:]] == [True]
    assert alias.fallbacks == (Fallback("first", FallbackCause.CONTEXT_TOO_LONG), Fallback("second"))


def test_an_alias_may_be_a_target(world: World) -> None:
    other = _other()
    AliasTarget.objects.create(alias=other, target_alias=world.alias, weight=2, canary_percent=12.5)

    (target,) = _loaded("other").targets

    assert (target.deployment, target.weight, target.canary) == (None, 2, 0.125)
    assert target.alias == _loaded()
    assert [deployment.name for deployment in _loaded("other").deployments] == ["small-main"]


def test_what_is_switched_off_is_passed_over_in_silence(world: World) -> None:
    other = _other(enabled=False)
    AliasRule.objects.create(alias=world.alias, name="r", when="true", use=other)
    AliasFallback.objects.create(alias=world.alias, use=other)
    AliasTarget.objects.create(alias=world.alias, target_alias=other)
    ModelAlias.objects.filter(pk=world.alias.pk).update(mirror_alias=other, mirror_percent=5)

    snapshot = load_snapshot()

    alias = snapshot.aliases["small"]
    assert (alias.rules, alias.fallbacks, alias.mirror, len(alias.targets)) == ((), (), None, 1)
    assert snapshot.problems == ()


class TestCircles:
    def test_the_closing_link_is_left_out_and_named(self, world: World) -> None:
        second, third = _other("second"), _other("third")
        AliasFallback.objects.create(alias=world.alias, use=second)
        AliasRule.objects.create(alias=second, name="r", when="true", use=third)
        AliasTarget.objects.create(alias=third, target_alias=world.alias)

        snapshot = load_snapshot()

        assert snapshot.aliases["small"].fallbacks == (Fallback("second"),)
        assert [rule.use for rule in snapshot.aliases["second"].rules] == ["third"]
        assert snapshot.aliases["third"].targets == ()
        (problem,) = snapshot.problems
        assert str(problem).startswith("alias third: small → second → third → small is a circle.")

    def test_an_alias_that_leads_to_itself_is_one(self, world: World) -> None:
        ModelAlias.objects.filter(pk=world.alias.pk).update(mirror_alias=world.alias.pk, mirror_percent=10)

        snapshot = load_snapshot()

        assert snapshot.aliases["small"].mirror is None
        assert "small → small is a circle" in _messages(snapshot)

    def test_two_ways_to_one_alias_are_none(self, world: World) -> None:
        left, right = _other("left"), _other("right")
        for alias in (left, right):
            AliasTarget.objects.create(alias=alias, target_alias=world.alias)
            AliasTarget.objects.create(alias=_other(f"to-{alias.name}"), target_alias=alias)
        AliasFallback.objects.create(alias=left, use=right)

        assert load_snapshot().problems == ()

    def test_long_chains_come_to_an_end(self) -> None:
        links = {number: (number + 1, 0) for number in range(5_000)}

        order = order_of(range(5_001), links)

        assert order.ids[0] == 5_000
        assert sorted(order.ids) == list(range(5_001))
        assert len(order.closing) == 5_000

    def test_what_leads_somewhere_comes_after_it(self) -> None:
        order = order_of([1, 2, 3], {1: [2, 3], 2: [3]})

        assert (order.ids, order.circles) == ((3, 2, 1), ())


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("strategy", "by_mood", "its strategy cannot be used"),
        ("sticky", "glue", "its sticky cannot be used"),
        ("parameter_defaults", "nonsense", "its parameter_defaults cannot be used"),
        ("parameter_overrides", '["a"]', "its parameter_overrides cannot be used"),
        ("parameter_overrides", '{"model": "dear"}', "parameter_overrides (model)"),
        ("first_token_timeout_s", "soon", "its first_token_timeout_s cannot be used"),
        ("total_timeout_s", -1, "its total_timeout_s cannot be used"),
        ("cache_ttl_s", "x", "its cache_ttl_s cannot be used"),
    ],
)
def test_what_cannot_be_used_is_told_and_counts_as_absent(world: World, column: str, value: object, told: str) -> None:
    usual = _loaded()
    _sql(f"UPDATE providers_modelalias SET {column} = %s", value)

    snapshot = load_snapshot()

    assert told in _messages(snapshot)
    assert snapshot.aliases["small"] == usual


def test_a_cache_of_meanings_without_embeddings_is_one_of_words(world: World) -> None:
    ModelAlias.objects.filter(pk=world.alias.pk).update(cache_ttl_s=9, cache_mode="semantic")

    snapshot = load_snapshot()

    cache = snapshot.aliases["small"].cache
    assert cache is not None
    assert cache.mode == "exact"
    assert "its cache_embeddings cannot be used" in _messages(snapshot)


@pytest.mark.parametrize("when", ["request.", "1 + 1", "nothing.such", "request.colour == 'red'"])
def test_a_rule_that_cannot_be_read_never_holds(world: World, when: str) -> None:
    AliasRule.objects.create(alias=world.alias, name="odd", when=when, use=_other())
    AliasRule.objects.create(alias=world.alias, name="good", when="true", use=ModelAlias.objects.get(name="other"))

    snapshot = load_snapshot()

    assert [rule.name for rule in snapshot.aliases["small"].rules] == ["good"]
    assert "rule odd of alias small: its expression cannot be read" in _messages(snapshot)


def test_an_unknown_cause_is_never_asked(world: World) -> None:
    AliasFallback.objects.create(alias=world.alias, use=_other(), cause="bad_weather")

    snapshot = load_snapshot()

    assert snapshot.aliases["small"].fallbacks == ()
    assert "'bad_weather' is not a cause this version knows" in _messages(snapshot)


def test_a_deployment_says_how_it_is_probed(world: World) -> None:
    assert _loaded().deployments[0].probe is None

    Deployment.objects.update(probe_enabled=True, probe_path="/health", probe_unhealthy_after=7, draining=True,
                              health_generation=2)  # fmt: skip

    (deployment,) = _loaded().deployments
    assert deployment.probe == Probe("/health", 10, 5, 7, 2)
    assert (deployment.draining, deployment.health_generation) == (True, 2)


@pytest.mark.parametrize("value", [0, -5, "often"])
def test_no_row_makes_us_probe_without_a_pause(world: World, value: object) -> None:
    Deployment.objects.update(probe_enabled=True)
    _sql("UPDATE providers_deployment SET probe_interval_s = %s", value)

    (deployment,) = _loaded().deployments

    assert deployment.probe is not None
    assert deployment.probe.interval_s >= 1


class TestSettings:
    def test_without_a_row_all_is_as_usual(self, world: World) -> None:
        snapshot = load_snapshot()

        assert (snapshot.circuit, snapshot.load, snapshot.cache) == (CircuitRules(), LoadRules(), CacheSettings())
        assert snapshot.vendor_models == {}

    def test_the_row_decides(self, world: World) -> None:
        GatewaySettings.objects.create(
            pk=1, circuit_mode="log", circuit_failures=2, circuit_window_s=3, circuit_open_s=4, circuit_wait_s=5,
            max_in_flight=6, max_queued=7, queue_wait_s=8, cache_enabled=True, cache_ttl_s=9, cache_max_mb=10,
            cache_generation=11, vendor_models={"acme": "small"},
        )  # fmt: skip

        snapshot = load_snapshot()

        assert snapshot.circuit == CircuitRules("log", 2, 3, 4, 5)
        assert snapshot.load == LoadRules(6, 7, 8)
        assert snapshot.cache == CacheSettings(enabled=True, ttl_s=9, max_mb=10, generation=11)
        assert snapshot.vendor_models == {"acme": "small"}

    @pytest.mark.parametrize(("variable", "row"), [("true", False), ("false", True)])
    def test_the_environment_wins(
        self, world: World, with_values: Callable[..., Conf], variable: str, row: bool
    ) -> None:
        GatewaySettings.objects.create(pk=1, cache_enabled=row, cache_ttl_s=9)

        cache = load_snapshot(conf=with_values(CACHE_ENABLED=variable, CACHE_TTL="77")).cache

        assert (cache.enabled, cache.ttl_s) == (not row, 77)

    def test_what_sql_wrote_past_the_checks_stays_within_bounds(self, world: World) -> None:
        GatewaySettings.objects.create(pk=1)
        _sql(
            "UPDATE llmgateway_gatewaysettings SET circuit_mode = 'x', circuit_failures = 0, circuit_open_s = -1, "
            "queue_wait_s = 'long', cache_max_mb = 0, vendor_models = '[1]'"
        )

        snapshot = load_snapshot()

        assert snapshot.circuit == CircuitRules(failures=1, open_s=0.1)
        assert (snapshot.load, snapshot.cache.max_mb, snapshot.vendor_models) == (LoadRules(), 1, {})
        assert "models of vendors cannot be read" in _messages(snapshot)


class TestTenants:
    @pytest.fixture
    def finance(self, world: World) -> Team:
        team = Team.objects.create(name="finance", time_zone="Asia/Tokyo")
        RateLimit.objects.create(team=team, amount=7)
        RateLimit.objects.create(key=world.strict, metric="tokens", per="day", amount=9)
        KeyTenant.objects.create(key=world.strict, team=team)
        return team

    def test_a_key_acts_for_another_team_under_that_teams_rules_and_its_own(self, world: World, finance: Team) -> None:
        key = key_of(load_snapshot(), world.strict)

        tenant = key.acting_for("finance")

        assert tenant is not None
        assert (tenant.id, tenant.name, tenant.team_id, tenant.team_name) == (key.id, "strict", finance.pk, "finance")
        assert tenant.time_zone == "Asia/Tokyo"
        assert sorted(limit.amount for limit in tenant.limits) == [5, 7, 9, 500]
        assert {budget.name for budget in tenant.budgets} == {"own", "all"}
        assert (tenant.networks, tenant.models, tenant.tenants) == (key.networks, key.models, ())

    def test_its_own_rules_stay_the_same_counters(self, world: World, finance: Team) -> None:
        key = key_of(load_snapshot(), world.strict)
        tenant = key.acting_for("finance")
        assert tenant is not None

        own = [limit for limit in key.limits if limit.owner == f"key:{world.strict.pk}"]

        assert own == [limit for limit in tenant.limits if limit.owner.startswith("key:")]
        assert {limit.time_zone for limit in own} == {"UTC"}

    def test_a_key_acts_for_nobody_else(self, world: World, finance: Team) -> None:
        snapshot = load_snapshot()

        assert key_of(snapshot, world.plain).tenants == ()
        assert key_of(snapshot, world.plain).acting_for("finance") is None
        assert key_of(snapshot, world.strict).acting_for("platform") is None

    def test_its_own_team_is_no_tenant(self, world: World) -> None:
        KeyTenant.objects.create(key=world.strict, team=world.research)

        key = key_of(load_snapshot(), world.strict)

        assert key.tenants == ()
        assert key.acting_for("research") is key

    def test_priority_and_bypass_arrive(self, world: World) -> None:
        ApiKey.objects.filter(pk=world.plain.pk).update(priority=-3, may_bypass_health=True)

        key = key_of(load_snapshot(), world.plain)

        assert (key.priority, key.may_bypass_health) == (-3, True)

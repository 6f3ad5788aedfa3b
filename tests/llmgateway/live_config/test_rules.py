"""Limits and budgets of every scope in the snapshot: where they bind, what they say, and that the unknown denies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import Budget, BudgetCredit
from billing.pricing import default_price
from llmgateway.config_loader import load_snapshot
from llmgateway.models import AuthSource, GatewaySettings, RateLimit, Team
from llmgateway.pipeline.snapshot import AdmissionRules, BudgetRule, Deployment, Estimation, Limit, Snapshot
from tests.llmgateway.live_config.conftest import NEW_YEAR, World, key_of


def _deployment(snapshot: Snapshot) -> Deployment:
    return snapshot.aliases["small"].deployments[0]


class TestLimits:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ({"metric": "tokens", "per": "minute", "amount": 100_000, "burst": 5},
             {"name": "100,000 tokens per minute", "burst": 5, "scope": "key"}),
            ({"metric": "concurrency", "per": "", "amount": 3}, {"name": "3 concurrent requests", "per": ""}),
            ({"metric": "tokens", "per": "total", "amount": 1_000_000},
             {"name": "1,000,000 tokens in total", "reset_s": 0, "anchor": 0}),
            ({"metric": "tokens", "per": "total", "amount": 5, "reset_seconds": 43_200, "reset_anchor": NEW_YEAR},
             {"name": "5 tokens per 12h", "reset_s": 43_200, "anchor": int(NEW_YEAR.timestamp())}),
            ({"per": "week", "amount": 5, "starts_on": "wednesday"}, {"starts_on": 3, "time_zone": "Asia/Tokyo"}),
            ({"per": "month", "amount": 5, "starts_on": "15"}, {"starts_on": 15, "burst": 5}),
            ({"per": "day", "amount": 5, "model": "coder"},
             {"name": "5 requests per day of coder", "model": "coder", "scope": "key"}),
            ({"per": "day", "amount": 5, "each": "ip"}, {"scope": "ip", "each": "ip"}),
            ({"metric": "tokens", "per": "day", "amount": 5, "oversize": "first_in_window", "shadow": True},
             {"first_in_window": True, "shadow": True}),
        ],
    )  # fmt: skip
    def test_a_row_says_everything(self, world: World, columns: dict[str, Any], expected: dict[str, Any]) -> None:
        Team.objects.filter(pk=world.platform.pk).update(time_zone="Asia/Tokyo")
        row = RateLimit.objects.create(key=world.plain, **columns)

        limit = key_of(load_snapshot(), world.plain).limits[0]

        assert (limit.counter, limit.owner) == (f"limit:{row.pk}", f"key:{world.plain.pk}")
        assert {name: getattr(limit, name) for name in expected} == expected

    def test_a_total_without_an_anchor_is_counted_from_when_it_was_made(self, world: World) -> None:
        row = RateLimit.objects.create(key=world.plain, per="total", amount=5, reset_seconds=60)

        assert key_of(load_snapshot(), world.plain).limits[0].anchor == int(row.created_at.timestamp())

    def test_places_carry_their_own(self, world: World) -> None:
        RateLimit.objects.create(provider=world.provider, amount=1)
        RateLimit.objects.create(deployment=world.deployment, amount=2)
        RateLimit.objects.create(alias=world.alias, amount=3)

        snapshot = load_snapshot()

        assert [(limit.scope, limit.amount) for limit in _deployment(snapshot).limits] == [
            ("deployment", 2),
            ("provider", 1),
        ]
        assert [(limit.scope, limit.amount) for limit in snapshot.aliases["small"].limits] == [("model", 3)]
        assert [limit.scope for limit in key_of(snapshot, world.plain).limits] == ["team", "global"]

    def test_rules_for_each_say_whose_they_are(self, world: World) -> None:
        RateLimit.objects.create(team=world.platform, each="end_user", per="day", amount=5)
        RateLimit.objects.create(each="ip", per="day", amount=6)

        limits = key_of(load_snapshot(), world.plain).limits

        assert [(limit.scope, limit.owner) for limit in limits if limit.each] == [
            ("end_user", f"team:{world.platform.pk}"),
            ("ip", ""),
        ]

    @pytest.mark.parametrize(
        "broken", [{"metric": "bananas"}, {"per": "decade"}, {"each": "planet"}, {"per": "week", "starts_on": "x"}]
    )
    def test_what_nobody_knows_lets_nothing_through(self, world: World, broken: dict[str, str]) -> None:
        RateLimit.objects.filter(key=world.strict).update(burst=None, **broken)

        snapshot = load_snapshot()

        limit = key_of(snapshot, world.strict).limits[0]
        assert (limit.amount, limit.burst, limit.per, limit.each) == (0, 0, "minute", "")
        assert snapshot.problems[0].table == "llmgateway_ratelimit"
        assert "lets nothing through" in snapshot.problems[0].message


class TestBudgets:
    def test_a_row_says_everything(self, world: World) -> None:
        until = datetime(2099, 1, 1, tzinfo=UTC)
        row = Budget.objects.create(
            key=world.plain, name="b", window="week", starts_on="sunday", mode="strict", limit_pico_usd=5,
            increase_pico_usd=3, increase_until=until, alerts=[80],
        )  # fmt: skip

        assert key_of(load_snapshot(), world.plain).budgets[0] == BudgetRule(
            id=row.pk, name="b", scope="key", scope_id=str(world.plain.pk), window="week", limit_pico_usd=5,
            time_zone="UTC", strict=True, starts_on=7, increase_pico_usd=3, increase_until=until.timestamp(),
            owner=f"key:{world.plain.pk}",
        )  # fmt: skip

    def test_places_are_named_as_ledger_rows_name_them(self, world: World) -> None:
        places = {"provider": world.provider, "deployment": world.deployment, "alias": world.alias}
        for name, place in places.items():
            Budget.objects.create(name=name, limit_pico_usd=1, **{name: place})

        snapshot = load_snapshot()

        assert [(rule.scope, rule.scope_id) for rule in _deployment(snapshot).budgets] == [
            ("deployment", "small-main"),
            ("provider", "acme"),
        ]
        assert [(rule.scope, rule.scope_id) for rule in snapshot.aliases["small"].budgets] == [("model", "small")]
        assert {"provider", "deployment", "alias"} <= {rule.name for rule in snapshot.budgets.values()}

    def test_budgets_of_places_that_are_switched_off_are_known(self, world: World) -> None:
        row = Budget.objects.create(name="p", limit_pico_usd=1, provider=world.provider)
        type(world.provider).objects.update(enabled=False)

        assert row.pk in load_snapshot().budgets

    def test_rules_for_each_have_no_subject_yet(self, world: World) -> None:
        Budget.objects.create(team=world.platform, name="b", limit_pico_usd=1, each="end_user")

        rule = next(rule for rule in key_of(load_snapshot(), world.plain).budgets if rule.each)

        assert (rule.scope, rule.scope_id, rule.owner) == ("end_user", "", f"team:{world.platform.pk}")

    def test_credit_adds_to_the_limit_and_expires_by_the_clock(self, world: World) -> None:
        budget = Budget.objects.create(key=world.plain, name="p", window="total", limit_pico_usd=1)
        now = timezone.now()
        for amount, expires_at in ((10, None), (20, now + timedelta(hours=1)), (40, now - timedelta(hours=1))):
            BudgetCredit.objects.create(budget=budget, amount_pico_usd=amount, expires_at=expires_at)

        rule = key_of(load_snapshot(), world.plain).budgets[0]

        assert rule.limit_at(now.timestamp()) == 31
        assert rule.limit_at(now.timestamp() + 3600) == 11

    @pytest.mark.parametrize("broken", [{"window": "decade"}, {"mode": "hopeful"}, {"each": "planet"}])
    def test_what_nobody_knows_lets_nothing_through(self, world: World, broken: dict[str, str]) -> None:
        Budget.objects.filter(name="own").update(**broken)

        snapshot = load_snapshot()

        rule = key_of(snapshot, world.strict).budgets[0]
        assert (rule.limit_at(0), rule.window, rule.each) == (0, "total", "")
        assert "lets nothing through" in snapshot.problems[0].message


class TestStaticFile:
    def test_its_keys_have_the_same_rules(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "keys.yaml"
        file.write_text(f"""
keys:
  - name: batch
    sha256: {"ab" * 32}
    limits:
      - {{metric: concurrency, amount: 3}}
      - {{metric: tokens, per: total, amount: 9, reset: 30d, reset_anchor: 2026-01-01}}
      - {{metric: requests, per: month, amount: 5, starts_on: 15, model: small, shadow: true}}
      - {{metric: requests, per: day, amount: 5, scope: end_user}}
      - {{metric: requests, per: hour, amount: 5, enabled: false}}
    budgets:
      - {{name: p, window: total, limit_usd: 1, mode: strict, credits: [{{amount_usd: 2}}]}}
      - {{name: u, window: week, limit_usd: 1, scope: end_user, starts_on: friday, enabled: true}}
      - {{name: idle, window: week, limit_usd: 1, enabled: false}}
""")
        AuthSource.objects.create(name="file", kind="static_file", path=str(file))

        snapshot = load_snapshot()

        assert snapshot.problems == ()
        (entry,) = snapshot.sources[0].keys.values()
        own = [limit for limit in entry.key.limits if limit.owner == "key:file:batch"]
        prefix = "limit:file:batch"
        assert own == [
            Limit(f"{prefix}:concurrency", "3 concurrent requests", "key", 3, 3, "concurrency", "", owner="key:file:batch"),
            Limit(f"{prefix}:tokens:total", "9 tokens per 30d", "key", 9, 9, "tokens", "total", reset_s=30 * 86_400,
                  anchor=int(NEW_YEAR.timestamp()), owner="key:file:batch"),
            Limit(f"{prefix}:requests:month:model small:shadow", "5 requests per month of small", "key", 5, 5,
                  "requests", "month", starts_on=15, model="small", shadow=True, owner="key:file:batch"),
            Limit(f"{prefix}:requests:day:each end_user", "5 requests per day for each end user", "end_user", 5, 5,
                  "requests", "day", each="end_user", owner="key:file:batch"),
        ]  # fmt: skip
        first, second = (rule for rule in entry.key.budgets if rule.owner == "key:file:batch")
        assert (first.strict, first.limit_pico_usd, first.scope_id) == (True, 3 * 10**12, "file:batch")
        assert (second.scope, second.scope_id, second.starts_on) == ("end_user", "", 5)
        assert {first.id, second.id} <= set(snapshot.budgets)


class TestSettings:
    def test_without_a_row_the_documented_figures_hold(self, world: World) -> None:
        snapshot = load_snapshot()

        assert snapshot.admission == AdmissionRules(200, 256, 16, 402)
        assert _deployment(snapshot).estimation == Estimation(20_000, 4, 5)

    def test_the_row_wins(self, world: World) -> None:
        GatewaySettings.objects.create(
            pk=1, hold_wait_ms=1, strict_min_output_tokens=2, absent_cap_share=3, quota_status=429,
            max_sample_bytes=4, bytes_per_token=5, chars_per_token=6, chars_per_token_by_provider={"anthropic": 7},
        )  # fmt: skip
        type(world.deployment).objects.update(max_request_pico_usd=8, max_output_tokens=9)

        snapshot = load_snapshot()

        assert snapshot.admission == AdmissionRules(1, 2, 3, 429)
        assert _deployment(snapshot).estimation == Estimation(4, 5, 5.0)
        assert _deployment(snapshot).max_request_pico_usd == 8
        assert _deployment(snapshot).max_output_tokens == 9

    @pytest.mark.parametrize(
        ("adapter", "by_adapter", "expected"),
        [
            ("anthropic", {}, 3), ("anthropic", {"anthropic": 7}, 7), ("openai", {"anthropic": 7}, 5),
            ("openai_compatible", {"anthropic": 7}, 6), ("openai_compatible", {"openai_compatible": 8}, 8),
        ],
    )  # fmt: skip
    def test_the_row_says_more_than_the_adapter(
        self, world: World, adapter: str, by_adapter: dict[str, float], expected: float
    ) -> None:
        GatewaySettings.objects.create(pk=1, chars_per_token=6, chars_per_token_by_provider=by_adapter)
        type(world.provider).objects.update(adapter=adapter)

        assert _deployment(load_snapshot()).estimation.chars_per_token == expected

    def test_a_default_price_stands_behind_the_models_own(self, world: World) -> None:
        own = _deployment(load_snapshot()).prices
        GatewaySettings.objects.create(pk=1, default_input_price=5, default_output_price=0, default_request_price=-1)

        prices = _deployment(load_snapshot()).prices

        assert prices[1:] == own
        assert prices[0] == default_price(input_price=5, output_price=0, request_price=0)
        GatewaySettings.objects.update(default_output_price=None)
        assert _deployment(load_snapshot()).prices == own

    def test_figures_that_make_no_sense_do_not_count(self, world: World) -> None:
        GatewaySettings.objects.create(
            pk=1, quota_status=200, absent_cap_share=0, chars_per_token=0, chars_per_token_by_provider={"openai": 0}
        )

        snapshot = load_snapshot()

        assert (snapshot.admission.quota_status, snapshot.admission.absent_cap_share) == (402, 1)
        assert _deployment(snapshot).estimation == Estimation()

    def test_a_broken_list_of_adapters_is_a_problem(self, world: World) -> None:
        GatewaySettings.objects.create(pk=1)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE llmgateway_gatewaysettings SET chars_per_token_by_provider = '[1]'")

        snapshot = load_snapshot()

        assert _deployment(snapshot).estimation == Estimation(chars_per_token=5.0)
        assert "characters per token by adapter cannot be read" in snapshot.problems[0].message

"""Rows to the snapshot: what is compiled, what is shared, and that whatever is broken denies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.db import connection
from django.utils import timezone

from billing.models import Budget, Price
from billing.pricing import in_force
from llmgateway.conf import Conf
from llmgateway.config_loader import load_snapshot
from llmgateway.models import ApiKey, AuthSource, GatewaySettings, NetworkList, RateLimit, Team
from llmgateway.pipeline.snapshot import Retries, Snapshot, parse_address
from llmgateway.services import key_create
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.llmgateway.live_config.conftest import NEW_YEAR, World, digest_of, entry_of, key_of, tie


def _lets_in(snapshot: Snapshot, row: ApiKey, address: str) -> bool:
    networks = key_of(snapshot, row).networks
    return networks is None or parse_address(address) in networks


def _messages(snapshot: Snapshot) -> str:
    return "\n".join(str(problem) for problem in snapshot.problems)


def _write(table: str, column: str, value: str, row_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", [value, row_id])


class TestKeys:
    def test_a_secret_leads_to_its_key(self, world: World) -> None:
        snapshot = load_snapshot(revision=7)

        key = snapshot.keys[digest_of(world.plain_secret)].key
        assert (key.id, key.name, key.team_name) == (str(world.plain.pk), "plain", "platform")
        assert (key.public_id, key.team_id, snapshot.revision) == (world.plain.public_id, world.platform.pk, 7)
        assert snapshot.problems == ()

    def test_a_key_without_rules_may_do_everything_from_anywhere(self, world: World) -> None:
        key = key_of(load_snapshot(), world.plain)

        assert (key.models, key.networks, key.starts_at, key.expires_at, key.enabled) == (None, None, None, None, True)

    def test_dates_are_seconds_since_the_epoch(self, world: World) -> None:
        moment = datetime(2027, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)
        ApiKey.objects.filter(pk=world.plain.pk).update(starts_at=NEW_YEAR, expires_at=moment)

        key = key_of(load_snapshot(), world.plain)

        assert (key.starts_at, key.expires_at) == (NEW_YEAR.timestamp(), moment.timestamp())

    def test_a_disabled_key_is_there_and_says_so(self, world: World) -> None:
        ApiKey.objects.filter(pk=world.plain.pk).update(enabled=False)

        assert key_of(load_snapshot(), world.plain).enabled is False

    def test_a_revoked_key_is_not_there(self, world: World) -> None:
        ApiKey.objects.filter(pk=world.plain.pk).update(revoked_at=timezone.now())

        assert set(load_snapshot().keys) == {bytes.fromhex(world.strict.digest)}

    def test_the_old_secret_works_until_its_grace_ends(self, world: World) -> None:
        until = NEW_YEAR + timedelta(hours=1)
        ApiKey.objects.filter(pk=world.plain.pk).update(previous_digest="cd" * 32, previous_valid_until=until)

        snapshot = load_snapshot()

        assert entry_of(snapshot, "cd" * 32).valid_until == until.timestamp()
        assert entry_of(snapshot, "cd" * 32).key is entry_of(snapshot, world.plain.digest).key
        assert entry_of(snapshot, world.plain.digest).valid_until is None

    def test_an_old_secret_without_an_end_does_not_work(self, world: World) -> None:
        ApiKey.objects.filter(pk=world.plain.pk).update(previous_digest="cd" * 32)

        assert bytes.fromhex("cd" * 32) not in load_snapshot().keys

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("allowed_models", "not json"),
            ("allowed_models", '{"a": 1}'),
            ("allowed_ips", '["not an address"]'),
            ("expires_at", "whenever"),
            ("digest", "short"),
        ],
    )
    def test_a_row_that_cannot_be_read_denies_and_leaves_the_others_alone(
        self, world: World, column: str, value: str
    ) -> None:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            _write("llmgateway_apikey", column, value, world.plain.pk)
            cursor.execute("PRAGMA ignore_check_constraints = OFF")

        snapshot = load_snapshot()

        assert [entry.key.name for entry in snapshot.keys.values()] == ["strict"]
        assert "key plain: its row cannot be read" in _messages(snapshot)

    def test_keys_of_an_unknown_pepper_are_a_problem_without_a_row_each(self, world: World) -> None:
        ApiKey.objects.update(pepper_id="0123456789abcdef")

        (problem,) = load_snapshot().problems

        assert problem.name == "pepper 0123456789abcdef"
        assert problem.message.startswith("2 keys")


class TestNetworks:
    def test_lists_and_own_addresses_add_up(self, world: World) -> None:
        snapshot = load_snapshot()

        allowed = {
            a: _lets_in(snapshot, world.strict, a) for a in ("10.1.2.3", "192.0.2.7", "2001:db8::5", "192.0.2.8")
        }
        assert allowed == {"10.1.2.3": True, "192.0.2.7": True, "2001:db8::5": True, "192.0.2.8": False}

    def test_an_empty_list_lets_nobody_in(self, world: World) -> None:
        tie(world.plain, NetworkList.objects.create(name="nobody"))

        assert not _lets_in(load_snapshot(), world.plain, "127.0.0.1")

    def test_a_broken_list_lets_nobody_in_but_its_usable_entries(self, world: World) -> None:
        _write("llmgateway_networklist", "networks", '["10.0.0.0/8", "garbage"]', world.office.pk)

        snapshot = load_snapshot()

        assert _lets_in(snapshot, world.strict, "10.0.0.1")
        assert not _lets_in(snapshot, world.strict, "2001:db8::5")
        assert "network list office: garbage is not an address" in _messages(snapshot)

    def test_an_unreadable_list_lets_nobody_in(self, world: World) -> None:
        tie(world.plain, world.office)
        _write("llmgateway_networklist", "networks", '{"a": 1}', world.office.pk)

        assert not _lets_in(load_snapshot(), world.plain, "10.0.0.1")


class TestQuotas:
    def test_a_key_carries_its_own_its_teams_and_everyones(self, world: World) -> None:
        snapshot = load_snapshot()

        plain, strict = key_of(snapshot, world.plain), key_of(snapshot, world.strict)
        assert [(limit.scope, limit.amount, limit.burst) for limit in strict.limits] == [
            ("key", 5, 2),
            ("global", 500, 500),
        ]
        assert [(limit.scope, limit.name) for limit in plain.limits] == [
            ("team", "50 requests per minute"),
            ("global", "500 requests per minute"),
        ]
        assert [(rule.name, rule.scope, rule.scope_id, rule.window) for rule in strict.budgets] == [
            ("own", "key", str(world.strict.pk), "day"),
            ("month", "team", str(world.research.pk), "month"),
            ("all", "global", "", "hour"),
        ]
        assert sorted(rule.name for rule in snapshot.budgets.values()) == ["all", "month", "own"]

    def test_counters_are_named_by_the_rows(self, world: World) -> None:
        row = RateLimit.objects.get(key=world.strict)

        assert key_of(load_snapshot(), world.strict).limits[0].counter == f"limit:{row.pk}"

    def test_keys_share_what_is_equal(self, world: World) -> None:
        other, _ = key_create(team=world.platform, name="other", allowed_models=["small"], networks=[world.office])
        another, _ = key_create(team=world.platform, name="another", allowed_models=["small"], networks=[world.office])

        snapshot = load_snapshot()
        first, second = key_of(snapshot, other), key_of(snapshot, another)

        assert first.limits is second.limits
        assert first.budgets is second.budgets
        assert first.models is second.models
        assert first.networks is second.networks

    def test_what_is_the_same_is_taken_from_the_snapshot_before(self, world: World) -> None:
        before = load_snapshot()
        RateLimit.objects.filter(key=world.strict).update(amount=77)

        after = load_snapshot(before=before)

        assert after == load_snapshot()
        changed = {entry.key.name for digest, entry in after.keys.items() if entry is not before.keys[digest]}
        assert changed == {world.strict.name}
        assert all(rule is before.budgets[row_id] for row_id, rule in after.budgets.items())

    def test_the_limits_of_a_key_that_is_read_again_are_not_there_twice(self, world: World) -> None:
        RateLimit.objects.create(key=world.strict, metric="tokens", per="day", amount=5)
        before = load_snapshot()
        RateLimit.objects.filter(key=world.strict, metric="requests").update(amount=77)

        was, now = key_of(before, world.strict).limits, key_of(load_snapshot(before=before), world.strict).limits

        assert [limit.amount for limit in now if limit not in was] == [77]
        assert next(limit for limit in now if limit.metric == "tokens") in was
        assert all(limit is was[was.index(limit)] for limit in now if limit in was and limit.owner.startswith("key:"))

    def test_disabled_rules_do_not_bind(self, world: World) -> None:
        RateLimit.objects.update(enabled=False)
        Budget.objects.update(enabled=False)

        snapshot = load_snapshot()

        assert (key_of(snapshot, world.strict).limits, key_of(snapshot, world.strict).budgets) == ((), ())
        assert snapshot.budgets == {}

    def test_the_teams_midnight_counts_for_its_keys_budgets_too(self, world: World) -> None:
        Team.objects.filter(pk=world.research.pk).update(time_zone="Asia/Tokyo")

        zones = {rule.name: rule.time_zone for rule in key_of(load_snapshot(), world.strict).budgets}

        assert zones == {"own": "Asia/Tokyo", "month": "Asia/Tokyo", "all": "UTC"}

    def test_an_unknown_time_zone_is_utc_and_a_problem(self, world: World) -> None:
        Team.objects.filter(pk=world.research.pk).update(time_zone="Mars/Olympus")

        snapshot = load_snapshot()

        assert key_of(snapshot, world.strict).budgets[0].time_zone == "UTC"
        assert "team research: 'Mars/Olympus' is not a time zone" in _messages(snapshot)

    def test_a_limit_nobody_can_keep_lets_nothing_through(self, world: World) -> None:
        RateLimit.objects.filter(key=world.strict).update(metric="bananas")

        snapshot = load_snapshot()

        assert key_of(snapshot, world.strict).limits[0].amount == 0
        assert key_of(snapshot, world.strict).limits[0].burst == 0
        assert "bananas per minute is not a limit" in _messages(snapshot)

    def test_a_budget_without_a_known_window_lets_nothing_through(self, world: World) -> None:
        Budget.objects.filter(name="own").update(window="decade")

        snapshot = load_snapshot()

        assert key_of(snapshot, world.strict).budgets[0].limit_pico_usd == 0
        assert "'decade' is not a window" in _messages(snapshot)


class TestRouting:
    def test_an_alias_leads_to_a_ready_deployment(self, world: World) -> None:
        alias = load_snapshot().aliases["small"]

        (target,) = alias.targets
        assert (alias.strategy, target.weight) == ("weighted", 3)
        (deployment,) = alias.deployments
        assert deployment.base_url == "https://api.acme.example/v1"
        assert deployment.headers == ((b"authorization", b"Bearer sk-acme"),)
        assert (deployment.provider, deployment.problem) == ("acme", "")
        assert abs(alias.created - timezone.now().timestamp()) < 60

    def test_an_alias_retires_at_a_second(self, world: World) -> None:
        ModelAlias.objects.update(retires_at=NEW_YEAR, replacement="large")

        alias = load_snapshot().aliases["small"]

        assert (alias.retires_at, alias.replacement) == (NEW_YEAR.timestamp(), "large")

    def test_a_retirement_that_cannot_be_read_has_begun(self, world: World) -> None:
        _write("providers_modelalias", "retires_at", "soon", world.alias.pk)

        snapshot = load_snapshot()

        assert snapshot.aliases["small"].retires_at == 0.0
        assert "alias small: the moment of its retirement cannot be read" in _messages(snapshot)

    def test_the_adapters_address_stands_in(self, world: World) -> None:
        Provider.objects.update(base_url="")

        assert load_snapshot().aliases["small"].deployments[0].base_url == "https://api.openai.com/v1"

    def test_timeouts_are_those_of_the_row(self, world: World) -> None:
        Deployment.objects.update(
            connect_timeout_s=1,
            first_token_timeout_s=2,
            idle_timeout_s=3,
            total_timeout_s=4,
            inject_usage=False,
            drain_s=7,
        )

        deployment = load_snapshot().aliases["small"].deployments[0]

        timeouts = deployment.timeouts
        assert (timeouts.connect_s, timeouts.first_token_s, timeouts.idle_s, timeouts.total_s) == (1, 2, 3, 4)
        assert deployment.drain_s == 7
        assert deployment.inject_usage is False

    @pytest.mark.parametrize("model", [Provider, Deployment])
    def test_what_is_disabled_is_no_target(self, world: World, model: type[Provider | Deployment]) -> None:
        model.objects.update(enabled=False)

        assert load_snapshot().aliases["small"].targets == ()

    def test_a_disabled_alias_is_not_there(self, world: World) -> None:
        ModelAlias.objects.update(enabled=False)

        assert load_snapshot().aliases == {}

    def test_a_disabled_provider_is_not_listed(self, world: World) -> None:
        Provider.objects.create(name="other", adapter="openai", enabled=False)

        assert load_snapshot().providers == ("acme",)

    def test_targets_come_in_order(self, world: World) -> None:
        first = Deployment.objects.create(name="first", provider=world.provider, model="m")
        AliasTarget.objects.filter(alias=world.alias).update(position=2)
        AliasTarget.objects.create(alias=world.alias, deployment=first, position=1)

        names = [each.name for each in load_snapshot().aliases["small"].deployments]

        assert names == ["first", "small-main"]

    def test_an_alias_may_be_named_like_another_deployment(self, world: World) -> None:
        other = Deployment.objects.create(name="small", provider=world.provider, model="other")
        AliasTarget.objects.create(alias=ModelAlias.objects.create(name="small-main"), deployment=other)

        aliases = load_snapshot().aliases

        assert aliases["small-main"].deployments[0].model == "other"
        assert aliases["small"].deployments[0].model == "small-1"

    def test_an_adapter_that_is_gone_leaves_its_provider_out(self, world: World) -> None:
        Provider.objects.update(adapter="gone")

        snapshot = load_snapshot()

        assert snapshot.aliases["small"].targets == ()
        assert "provider acme: There is no adapter named gone" in _messages(snapshot)

    @pytest.mark.parametrize("secret", ["env:NO_SUCH_VARIABLE", "file:/no/such/file"])
    def test_a_credential_that_leads_nowhere_is_a_problem_of_its_deployments(self, world: World, secret: str) -> None:
        world.credential.set_secret(secret)
        world.credential.save()

        snapshot = load_snapshot()
        deployment = snapshot.aliases["small"].deployments[0]

        assert deployment.headers == ()
        assert deployment.problem.startswith("The credential acme/main cannot be used.")
        assert "credential acme/main" in _messages(snapshot)

    def test_a_credential_of_another_field_key_is_a_problem(self, world: World) -> None:
        other_key = Fernet(Fernet.generate_key())
        Credential.objects.update(encrypted_secret="fernet:" + other_key.encrypt(b"sk-acme").decode())

        deployment = load_snapshot().aliases["small"].deployments[0]

        assert "acme/main cannot be used. A stored credential cannot be decrypted" in deployment.problem

    @pytest.mark.parametrize("content", [b"sk secret-part", b"sk-\xff-secret-part", b"", "sk-ü-secret-part".encode()])
    def test_a_secret_that_no_header_can_carry_is_a_problem_and_is_not_told(
        self, world: World, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "key"
        file.write_bytes(content)
        world.credential.set_secret(f"file:{file}")
        world.credential.save()

        snapshot = load_snapshot()
        problem = snapshot.aliases["small"].deployments[0].problem

        assert "acme/main" in problem
        assert "secret-part" not in problem + _messages(snapshot)

    def test_a_switched_off_credential_is_not_used(self, world: World) -> None:
        Credential.objects.update(enabled=False)

        deployment = load_snapshot().aliases["small"].deployments[0]

        assert (deployment.headers, deployment.problem) == ((), "The credential acme/main is switched off.")

    def test_a_deployment_needs_no_credential(self, world: World) -> None:
        Deployment.objects.update(credential=None)

        deployment = load_snapshot().aliases["small"].deployments[0]

        assert (deployment.headers, deployment.problem) == ((), "")

    def test_no_secret_in_the_text_of_a_snapshot(self, world: World) -> None:
        assert "sk-acme" not in repr(load_snapshot())


class TestPrices:
    def test_absent_buckets_cost_what_input_and_output_cost(self, world: World) -> None:
        (price,) = load_snapshot().aliases["small"].deployments[0].prices

        assert (price.input, price.cache_read, price.cache_write_5m, price.cache_write_1h) == (10, 10, 10, 10)
        assert (price.audio_input, price.image_input) == (10, 10)
        assert (price.output, price.reasoning, price.audio_output) == (20, 30, 20)

    def test_a_bucket_that_is_free_stays_free(self, world: World) -> None:
        Price.objects.update(cache_read=0)

        (price,) = load_snapshot().aliases["small"].deployments[0].prices

        assert price.cache_read == 0

    def test_versions_are_sorted_by_when_they_come_into_force(self, world: World) -> None:
        for days in (20, -20):
            Price.objects.create(
                provider=world.provider,
                model="small-1",
                effective_from=NEW_YEAR + timedelta(days=days),
                input=days + 50,
            )

        prices = load_snapshot().aliases["small"].deployments[0].prices

        assert [price.input for price in prices] == [30, 10, 70]
        now = in_force(prices, (NEW_YEAR + timedelta(days=19)).timestamp())
        assert now is not None
        assert now.input == 10

    def test_a_model_without_a_price_has_none(self, world: World) -> None:
        Deployment.objects.update(model="other")

        assert load_snapshot().aliases["small"].deployments[0].prices == ()


class TestSettings:
    def test_without_a_row_the_defaults_hold(self, db: None) -> None:
        snapshot = load_snapshot()

        assert (snapshot.request_body_limit, snapshot.retries) == (32 * 2**20, Retries(2, 250, 8000))

    def test_the_row_wins_over_the_defaults(self, db: None) -> None:
        GatewaySettings.objects.create(
            pk=1, request_body_limit_mb=1, retry_attempts=0, retry_initial_ms=5, retry_max_ms=6
        )

        snapshot = load_snapshot()

        assert (snapshot.request_body_limit, snapshot.retries) == (2**20, Retries(0, 5, 6))

    def test_waits_of_retries_come_from_the_row_and_the_environment_wins(
        self, db: None, with_values: Callable[..., Conf]
    ) -> None:
        GatewaySettings.objects.create(pk=1, retry_factor=3, retry_jitter=0.5)
        assert load_snapshot().retries == Retries(2, 250, 8000, 3.0, 0.5)

        with_values(BACKOFF_FACTOR="1.5", JITTER="full")

        assert load_snapshot().retries == Retries(2, 250, 8000, 1.5, 1.0)

    def test_waits_that_were_written_past_every_check_are_still_waits(self, db: None) -> None:
        GatewaySettings.objects.create(pk=1, retry_factor=-3, retry_jitter=7)

        assert load_snapshot().retries == Retries(2, 250, 8000, 1.0, 1.0)

    def test_the_environment_wins_over_the_row(self, db: None, with_values: Callable[..., Conf]) -> None:
        GatewaySettings.objects.create(pk=1, request_body_limit_mb=1, retry_attempts=9)
        with_values(REQUEST_BODY_LIMIT_MB="3", MAX_RETRIES="0", INITIAL_BACKOFF="7", MAX_BACKOFF="8")

        snapshot = load_snapshot()

        assert (snapshot.request_body_limit, snapshot.retries) == (3 * 2**20, Retries(0, 7, 8))


class TestSources:
    def test_without_rows_keys_come_from_the_database(self, db: None) -> None:
        assert [source.kind for source in load_snapshot().sources] == ["database"]

    def test_sources_come_in_order_and_disabled_ones_not_at_all(self, db: None) -> None:
        AuthSource.objects.create(name="late", kind="database", position=2)
        AuthSource.objects.create(name="off", kind="database", position=1, enabled=False)
        AuthSource.objects.create(name="early", kind="database", position=0)

        assert [source.name for source in load_snapshot().sources] == ["early", "late"]

    def test_with_all_sources_off_there_is_none(self, db: None) -> None:
        AuthSource.objects.create(name="off", kind="database", enabled=False)

        assert load_snapshot().sources == ()

"""Changes made by another process arrive within a second, and whatever happens to the database, the thread lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from llmgateway import config_follower
from llmgateway.config_follower import ConfigFollower, read_log
from llmgateway.config_loader import load_snapshot
from llmgateway.models import ApiKey, AuthSource, ConfigChange, Team
from llmgateway.pipeline.snapshot import LogPosition, Snapshot
from llmgateway.triggers import drop_triggers, missing_triggers
from providers.models import ModelAlias
from tests.llmgateway.live_config.conftest import (
    Database,
    Following,
    OtherProcess,
    World,
    create_world,
    key_of,
    wait_until,
)

Follow = Callable[[], Following]


@pytest.fixture
def real_world(database: Database) -> World:
    return create_world()


ELSEWHERE: list[tuple[str, Callable[[Snapshot], bool]]] = [
    (
        "connection.cursor().execute(\"UPDATE llmgateway_apikey SET enabled = (1 = 0) WHERE name = 'plain'\")",
        lambda s: any(not entry.key.enabled for entry in s.keys.values()),
    ),
    ("alias = ModelAlias.objects.get(); alias.name = 'tiny'; alias.save()", lambda s: "tiny" in s.aliases),
    (
        "Price.objects.update(input=11)",
        lambda s: next(iter(s.aliases.values())).deployments[0].prices[0].input == 11,
    ),
    (
        "NetworkList.objects.update(networks=[])",
        lambda s: any(e.key.networks and len(e.key.networks.v4) == 1 for e in s.keys.values()),
    ),
    ("RateLimit.objects.all().delete()", lambda s: not any(entry.key.limits for entry in s.keys.values())),
    (
        "Team.objects.bulk_create([Team(name=str(n)) for n in range(50)]); Team.objects.update(time_zone='Asia/Tokyo')",
        lambda s: all(rule.time_zone == "Asia/Tokyo" for rule in s.budgets.values() if rule.scope != "global"),
    ),
    (
        "RateLimit.objects.create(provider=Provider.objects.get(), metric='concurrency', per='', amount=3)",
        lambda s: bool(next(iter(s.aliases.values())).deployments[0].limits),
    ),
    (
        "b = Budget.objects.get(name='own'); b.window = 'total'; b.save(); b.credits.create(amount_pico_usd=7)",
        lambda s: any(rule.name == "own" and rule.limit_at(0) == 8 for rule in s.budgets.values()),
    ),
    (
        "GatewaySettings.objects.create(pk=1, quota_status=429)",
        lambda s: s.admission.quota_status == 429,
    ),
    (
        "ApiKey.objects.filter(name='plain').update(revoked_at='2026-01-01T00:00:00Z')",
        lambda s: len(s.keys) == 1,
    ),
]


class TestAnotherProcess:
    """A server's follower, and an admin, import or shell elsewhere."""

    def test_every_change_holds_within_a_second(
        self, real_world: World, follow: Follow, other_process: OtherProcess
    ) -> None:
        following = follow()
        other_process.run("pass")  # It has started.

        delays = {}
        for code, arrived in ELSEWHERE:
            committed = other_process.run(code)
            received, _ = following.wait_for(arrived)
            delays[code] = received - committed

        assert {code: delay for code, delay in delays.items() if delay >= 1.0} == {}

    def test_nothing_is_handed_over_while_nothing_changes(self, real_world: World, follow: Follow) -> None:
        following = follow()

        seen = following.follower.last_seen
        wait_until(lambda: following.follower.last_seen > seen)

        assert following.received == []
        assert following.follower.healthy

    def test_revisions_grow(self, real_world: World, follow: Follow, other_process: OtherProcess) -> None:
        following = follow()

        other_process.run("Team.objects.update(time_zone='Asia/Tokyo')")
        following.wait_for(lambda s: s.revision == 2)
        other_process.run("Team.objects.update(time_zone='UTC')")
        following.wait_for(lambda s: s.revision == 3)

        assert following.follower.revision == 3
        assert following.follower.snapshot is following.received[-1][1]


class TestOrder:
    @pytest.mark.postgres
    def test_transactions_that_commit_out_of_order_are_both_seen(
        self, postgresql_database: Database, follow: Follow
    ) -> None:
        world = create_world()
        following = follow()
        url = postgresql_database.environment["DATABASE_URL"]
        with psycopg.connect(url) as early, psycopg.connect(url) as late:
            early.execute("UPDATE llmgateway_apikey SET user_id = 'early' WHERE id = %s", [world.plain.pk])
            late.execute("UPDATE llmgateway_apikey SET user_id = 'late' WHERE id = %s", [world.strict.pk])
            late.commit()
            following.wait_for(lambda s: key_of(s, world.strict).user_id == "late")
            early.commit()
        _, snapshot = following.wait_for(lambda s: key_of(s, world.plain).user_id == "early")

        assert key_of(snapshot, world.strict).user_id == "late"

    @pytest.mark.postgres
    def test_a_change_that_was_open_during_the_first_load_arrives(
        self, postgresql_database: Database, follow: Follow
    ) -> None:
        world = create_world()
        with psycopg.connect(postgresql_database.environment["DATABASE_URL"]) as early:
            early.execute("UPDATE llmgateway_apikey SET user_id = 'early' WHERE id = %s", [world.plain.pk])
            ApiKey.objects.filter(pk=world.strict.pk).update(user_id="late")
            following = follow()
            assert key_of(following.follower.snapshot, world.strict).user_id == "late"
            early.commit()

        following.wait_for(lambda s: key_of(s, world.plain).user_id == "early")

    @pytest.mark.postgres
    def test_nothing_is_read_twice(self, postgresql_database: Database) -> None:
        create_world()
        with psycopg.connect(postgresql_database.environment["DATABASE_URL"]) as early:
            early.execute("UPDATE llmgateway_team SET time_zone = 'UTC'")  # Holds the watermark back.
            ModelAlias.objects.update(name="tiny")
            first = read_log(load_snapshot().position)
            assert first is not None
            again = read_log(first[1])

        assert (first[0], again and again[0]) == (set(), set())

    def test_what_was_committed_between_load_and_start_arrives(self, real_world: World) -> None:
        received: list[Snapshot] = []
        follower = ConfigFollower(load_snapshot(revision=1), received.append)
        ApiKey.objects.filter(pk=real_world.plain.pk).update(user_id="ana")

        follower.start()
        wait_until(lambda: bool(received))
        follower.stop()

        assert key_of(received[0], real_world.plain).user_id == "ana"

    @pytest.mark.postgres
    def test_truncate_arrives(self, postgresql_database: Database, follow: Follow) -> None:
        create_world()
        following = follow()

        postgresql_database.run("TRUNCATE llmgateway_ratelimit")

        following.wait_for(lambda s: not any(entry.key.limits for entry in s.keys.values()))

    def test_very_many_changes_arrive(self, real_world: World, follow: Follow) -> None:
        following = follow()
        rows = [
            ApiKey(name=f"k{n}", team=real_world.platform, public_id=f"p{n}", digest=f"{n:064x}", pepper_id="x")
            for n in range(10_050)
        ]

        ApiKey.objects.bulk_create(rows, batch_size=500)

        following.wait_for(lambda s: len(s.keys) == 10_052, timeout_s=20)


class TestDatabaseAway:
    def test_the_last_snapshot_stays_until_the_file_is_back(
        self, sqlite_database: Database, follow: Follow, tmp_path: Path
    ) -> None:
        world = create_world()
        following = follow()
        wait_until(lambda: following.follower.healthy)
        connections["default"].close()
        assert sqlite_database.file is not None
        hidden = sqlite_database.file.rename(tmp_path / "hidden.sqlite3")
        wait_until(lambda: not following.follower.healthy)

        assert key_of(following.follower.snapshot, world.plain).name == "plain"
        assert not sqlite_database.file.exists()
        hidden.rename(sqlite_database.file)
        wait_until(lambda: following.follower.healthy)
        ApiKey.objects.filter(pk=world.plain.pk).update(user_id="ana")
        following.wait_for(lambda s: key_of(s, world.plain).user_id == "ana")

    def test_a_file_that_was_restored_is_read_anew(
        self, sqlite_database: Database, follow: Follow, tmp_path: Path
    ) -> None:
        world = create_world()
        file = sqlite_database.file
        assert file is not None
        connections["default"].close()
        older = tmp_path / "older.sqlite3"
        older.write_bytes(file.read_bytes())
        ApiKey.objects.filter(pk=world.plain.pk).update(user_id="ana")
        following = follow()
        assert key_of(following.follower.snapshot, world.plain).user_id == "ana"

        connections["default"].close()
        # What was not yet checkpointed belongs to the file that goes.
        for leftover in ("-wal", "-shm"):
            file.with_name(file.name + leftover).unlink(missing_ok=True)
        older.replace(file)

        following.wait_for(lambda s: key_of(s, world.plain).user_id == "")

    def test_a_locked_database_is_only_away(self, sqlite_database: Database, follow: Follow) -> None:
        world = create_world()
        following = follow()
        with connection.cursor() as cursor:
            wait_until(lambda: _leave_wal(cursor))
            cursor.execute("PRAGMA locking_mode = EXCLUSIVE")
            cursor.execute("BEGIN EXCLUSIVE")
            wait_until(lambda: not following.follower.healthy)
            cursor.execute("UPDATE llmgateway_apikey SET user_id = 'ana'")
            cursor.execute("COMMIT")
        connection.close()

        following.wait_for(lambda s: key_of(s, world.plain).user_id == "ana")
        wait_until(lambda: following.follower.healthy)

    @pytest.mark.postgres
    def test_a_lost_listen_reads_everything_again(self, postgresql_database: Database, follow: Follow) -> None:
        world = create_world()
        following = follow()
        wait_until(lambda: _listening() == 1)

        ConfigChange.objects.all().delete()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE llmgateway_apikey DISABLE TRIGGER USER")
            cursor.execute("UPDATE llmgateway_apikey SET user_id = 'unnoted'")
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR pid IN "
                "(SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())"
            )

        following.wait_for(lambda s: key_of(s, world.plain).user_id == "unnoted")
        wait_until(lambda: following.follower.healthy)

    @pytest.mark.postgres
    def test_without_any_connection_it_is_not_healthy_and_recovers(
        self, postgresql_database: Database, follow: Follow
    ) -> None:
        world = create_world()
        following = follow()
        name = connection.settings_dict["NAME"]
        url = postgresql_database.environment["DATABASE_URL"].replace(f"/{name}?", "/postgres?")
        connections["default"].close()
        with psycopg.connect(url, autocommit=True) as outside:
            outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            wait_until(lambda: not following.follower.healthy)
            assert key_of(following.follower.snapshot, world.plain).name == "plain"
            outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

        ApiKey.objects.filter(pk=world.plain.pk).update(user_id="ana")
        following.wait_for(lambda s: key_of(s, world.plain).user_id == "ana")
        wait_until(lambda: following.follower.healthy)


def _listening() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0]) - 1


class TestRobustness:
    def test_triggers_that_are_gone_are_put_back(self, database: Database, follow: Follow) -> None:
        drop_triggers()

        following = follow()

        wait_until(lambda: missing_triggers(connection) == [])
        following.wait_for(lambda s: s.revision == 2)

    def test_a_receiver_that_fails_is_called_again_without_waiting_for_another_change(self, real_world: World) -> None:
        received: list[Snapshot] = []

        def fail_at_first(snapshot: Snapshot) -> None:
            received.append(snapshot)
            if len(received) == 1:
                raise RuntimeError("the loop is busy")

        follower = ConfigFollower(load_snapshot(revision=1), fail_at_first)
        follower.start()
        ApiKey.objects.filter(pk=real_world.plain.pk).update(user_id="ana")
        wait_until(lambda: len(received) == 2)
        wait_until(lambda: follower.healthy)
        follower.stop()

        assert key_of(received[1], real_world.plain).user_id == "ana"

    def test_a_receiver_that_closes_the_connection_ends_nothing(self, database: Database) -> None:
        """It reads the ledger in the follower's thread, on the connection that listens."""
        world = create_world()
        received: list[Snapshot] = []

        def close_connection(snapshot: Snapshot) -> None:
            received.append(snapshot)
            connection.close()

        follower = ConfigFollower(load_snapshot(revision=1), close_connection)
        follower.start()
        for name in ("ana", "bo", "cy"):
            ApiKey.objects.filter(pk=world.plain.pk).update(user_id=name)
            wait_until(lambda: bool(received) and key_of(received[-1], world.plain).user_id == name)  # noqa: B023

        assert follower.healthy
        follower.stop()

    def test_an_entry_that_makes_no_sense_does_no_harm(self, real_world: World, follow: Follow) -> None:
        following = follow()

        ConfigChange.objects.create(table_name="nonsense", row_id="?", created_at=timezone.now(), transaction_id=2**60)
        following.wait_for(lambda s: s.revision == 2)
        ApiKey.objects.filter(pk=real_world.plain.pk).update(user_id="ana")

        following.wait_for(lambda s: key_of(s, real_world.plain).user_id == "ana")

    def test_an_error_in_the_loader_keeps_the_last_snapshot(
        self, real_world: World, follow: Follow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        following = follow()

        def fail(*_: object, **__: object) -> Snapshot:
            raise ZeroDivisionError

        with monkeypatch.context() as patches:
            patches.setattr(config_follower, "patch_snapshot", fail)
            patches.setattr(config_follower, "load_snapshot", fail)
            ApiKey.objects.filter(pk=real_world.plain.pk).update(user_id="ana")
            wait_until(lambda: not following.follower.healthy)
            assert key_of(following.follower.snapshot, real_world.plain).user_id == ""

        following.wait_for(lambda s: key_of(s, real_world.plain).user_id == "ana")
        wait_until(lambda: following.follower.healthy)

    def test_a_poke_is_quicker_than_the_clock(self, sqlite_database: Database) -> None:
        world = create_world()
        received: list[float] = []
        follower = ConfigFollower(load_snapshot(revision=1), lambda _: received.append(time.monotonic()), poll_s=30)
        follower.start()
        seen = follower.last_seen
        wait_until(lambda: follower.last_seen > seen)

        ApiKey.objects.filter(pk=world.plain.pk).update(user_id="ana")
        poked = time.monotonic()
        follower.poke()
        wait_until(lambda: bool(received))
        follower.stop()

        assert received[0] - poked < 1

    def test_stopping_is_quick_and_leaves_no_connection(self, real_world: World, follow: Follow) -> None:
        following = follow()
        wait_until(lambda: following.follower.healthy)

        began = time.monotonic()
        following.follower.stop()

        assert time.monotonic() - began < 1
        assert not any(thread.name == "config-follower" for thread in threading.enumerate())
        following.follower.poke()

    def test_a_follower_that_never_ran_can_be_stopped(self, real_world: World) -> None:
        ConfigFollower(load_snapshot(), lambda _: None).stop()


class TestFiles:
    def test_a_changed_key_file_is_noticed(self, sqlite_database: Database, follow: Follow, tmp_path: Path) -> None:
        file = tmp_path / "keys.yaml"
        AuthSource.objects.create(name="file", kind="static_file", path=str(file))
        following = follow()

        file.write_text(f"keys: [{{name: a, sha256: {'ab' * 32}}}]")
        following.wait_for(lambda s: len(s.sources[0].keys) == 1)
        file.unlink()
        following.received.clear()

        following.wait_for(lambda s: len(s.sources[0].keys) == 0)

    def test_a_file_that_changed_before_the_start_is_noticed(self, sqlite_database: Database, tmp_path: Path) -> None:
        file = tmp_path / "keys.yaml"
        file.write_text(f"keys: [{{name: a, sha256: {'ab' * 32}}}]")
        AuthSource.objects.create(name="file", kind="static_file", path=str(file))
        received: list[Snapshot] = []
        follower = ConfigFollower(load_snapshot(revision=1), received.append)
        file.unlink()

        follower.start()
        wait_until(lambda: bool(received))
        follower.stop()

        assert received[-1].sources[0].keys == {}


class TestPruning:
    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config_follower, "PRUNE_EVERY_S", 0)

    def test_old_entries_go_and_new_ones_stay(self, real_world: World, follow: Follow) -> None:
        ConfigChange.objects.update(created_at="2026-01-01T00:00:00Z")
        Team.objects.create(name="new")

        follow()

        wait_until(lambda: ConfigChange.objects.count() == 1)
        assert ConfigChange.objects.get().table_name == "llmgateway_team"

    @pytest.mark.postgres
    def test_an_entry_that_committed_late_is_read_before_it_goes(
        self, postgresql_database: Database, follow: Follow
    ) -> None:
        world = create_world()
        following = follow()
        with psycopg.connect(postgresql_database.environment["DATABASE_URL"]) as slow:
            slow.execute("UPDATE llmgateway_apikey SET user_id = 'slow' WHERE id = %s", [world.plain.pk])
            slow.execute("UPDATE llmgateway_configchange SET created_at = '2026-01-01T00:00:00Z'")
            seen = following.follower.last_seen
            wait_until(lambda: following.follower.last_seen > seen + 0.6)
            slow.commit()

        following.wait_for(lambda s: key_of(s, world.plain).user_id == "slow")
        wait_until(lambda: ConfigChange.objects.count() == 0)


def test_a_log_that_went_back_means_everything(sqlite_database: Database) -> None:
    create_world()
    position = load_snapshot().position

    assert read_log(position) == (set(), position)
    assert read_log(LogPosition(position.watermark + 1)) is None


def _leave_wal(cursor: CursorWrapper) -> bool:
    """Whether SQLite gave its log up; it does not while the follower reads."""
    try:
        cursor.execute("PRAGMA journal_mode = DELETE")
    except OperationalError:
        return False
    return True

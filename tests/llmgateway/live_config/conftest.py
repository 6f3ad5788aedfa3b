"""A small configuration with one of everything, and real databases that a second process may write to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from environ import Env
from pytest_django import DjangoDbBlocker

from billing.models import Budget, Price
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_follower import ConfigFollower
from llmgateway.config_loader import load_snapshot
from llmgateway.key_secrets import digest
from llmgateway.models import ApiKey, KeyNetwork, NetworkList, RateLimit, Team
from llmgateway.pipeline.snapshot import Key, KeyDigest, Snapshot
from llmgateway.services import key_create
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.prepared import DATABASE, ROOT, with_tables

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FERNET_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
PEPPER = "ab" * 32


@dataclass
class World:
    """One of everything. `plain` has nothing of its own; `strict` has limits, a budget and networks."""

    platform: Team
    research: Team
    plain: ApiKey
    plain_secret: str
    strict: ApiKey
    strict_secret: str
    office: NetworkList
    provider: Provider
    credential: Credential
    deployment: Deployment
    alias: ModelAlias


def create_world() -> World:
    platform, research = Team.objects.create(name="platform"), Team.objects.create(name="research")
    office = NetworkList.objects.create(name="office", networks=["10.0.0.0/8", "2001:db8::/32"])
    plain, plain_secret = key_create(team=platform, name="plain")
    strict, strict_secret = key_create(
        team=research, name="strict", allowed_models=["small"], allowed_ips=["192.0.2.7"], networks=[office]
    )
    RateLimit.objects.create(key=strict, amount=5, burst=2)
    RateLimit.objects.create(team=platform, amount=50)
    RateLimit.objects.create(amount=500)
    Budget.objects.create(key=strict, name="own", window="day", limit_pico_usd=1)
    Budget.objects.create(team=research, name="month", window="month", limit_pico_usd=2)
    Budget.objects.create(name="all", window="hour", limit_pico_usd=3)
    provider = Provider.objects.create(name="acme", adapter="openai", base_url="https://api.acme.example/v1/")
    credential = Credential(provider=provider)
    credential.set_secret("sk-acme")
    credential.save()
    deployment = Deployment.objects.create(name="small-main", provider=provider, credential=credential, model="small-1")
    alias = ModelAlias.objects.create(name="small")
    AliasTarget.objects.create(alias=alias, deployment=deployment, weight=3)
    Price.objects.create(provider=provider, model="small-1", effective_from=NEW_YEAR, input=10, output=20, reasoning=30)
    return World(
        platform, research, plain, plain_secret, strict, strict_secret, office, provider, credential, deployment, alias
    )


def key_of(snapshot: Snapshot, row: ApiKey) -> Key:
    """The key that the row's digest leads to."""
    return entry_of(snapshot, row.digest).key


def entry_of(snapshot: Snapshot, hex_digest: str) -> KeyDigest:
    return snapshot.keys[bytes.fromhex(hex_digest)]


def digest_of(secret: str) -> bytes:
    """Under the pepper in use."""
    return digest(secret.encode(), bytes.fromhex(conf_module.conf.key_peppers[0]))


@pytest.fixture
def world(db: None) -> World:
    return create_world()


@pytest.fixture
def with_values(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Conf]:
    """Settings as in an environment with these variables too."""

    def use(**values: str) -> Conf:
        conf = Conf({**conf_module.conf.values, **values})
        monkeypatch.setattr(conf_module, "conf", conf)
        return conf

    return use


# Real databases: the follower has a connection of its own and must see what others commit.


@dataclass
class Database:
    """A database that is `default` in this process, and what makes it so in another."""

    vendor: str
    environment: dict[str, str]
    file: Path | None = None

    def run(self, statement: str) -> None:
        """From this process, by a connection of its own, committed."""
        with connections["default"].cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture
def sqlite_database(
    tmp_path: Path, with_values: Callable[..., Conf], django_db_blocker: DjangoDbBlocker
) -> Iterator[Database]:
    file = with_tables(tmp_path) / DATABASE
    environment = _environment(tmp_path, with_values)
    with django_db_blocker.unblock(), _as_default({"ENGINE": "django.db.backends.sqlite3", "NAME": file}):
        yield Database("sqlite", environment, file)


@pytest.fixture
def postgresql_database(
    postgres_url: str, tmp_path: Path, with_values: Callable[..., Conf], django_db_blocker: DjangoDbBlocker
) -> Iterator[Database]:
    environment = {**_environment(tmp_path, with_values), "DATABASE_URL": postgres_url}
    with django_db_blocker.unblock(), _as_default({"OPTIONS": {}, **Env.db_url_config(postgres_url)}):
        yield Database("postgresql", environment)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Database:
    """Each of the two kinds in turn."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


def _environment(folder: Path, with_values: Callable[..., Conf]) -> dict[str, str]:
    secrets = {"GATEWAY_KEY_PEPPERS": PEPPER, "GATEWAY_FIELD_KEYS": FERNET_KEY, "SECRET_KEY": "x" * 50}
    with_values(**secrets)
    return {"GATEWAY_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "llmgateway.settings", **secrets}


class _as_default:  # noqa: N801  # Reads as what it does.
    """Exchange the default database for every thread of this process."""

    def __init__(self, changes: dict[str, object]) -> None:
        self._new = {**connections.settings["default"], "OPTIONS": settings.SQLITE_OPTIONS, **changes}

    def __enter__(self) -> None:
        self._old = connections.settings["default"]
        self._connection = connections["default"]
        connections.settings["default"] = self._new
        del connections["default"]

    def __exit__(self, *_: object) -> None:
        connections["default"].close()
        connections.settings["default"] = self._old
        connections["default"] = self._connection


class OtherProcess:
    """A process of its own on the same database, which runs what it is told."""

    def __init__(self, database: Database) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OTHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **database.environment},
        )

    def run(self, code: str) -> float:
        """When the code had been run, by `time.time()`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(code + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the other process failed at {code}"
        return float(line)

    def stop(self) -> None:
        self._process.communicate(timeout=10)


_OTHER = """
import sys, time, django
django.setup()
from django.db import connection, transaction
from billing.models import *
from llmgateway.models import *
from providers.models import *
for line in sys.stdin:
    exec(line)
    print(time.time(), flush=True)
"""


@pytest.fixture
def other_process(database: Database) -> Iterator[OtherProcess]:
    process = OtherProcess(database)
    yield process
    process.stop()


@dataclass
class Following:
    """A running follower and what it handed over."""

    received: list[tuple[float, Snapshot]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.follower = ConfigFollower(load_snapshot(revision=1), self.receive)

    def receive(self, snapshot: Snapshot) -> None:
        with self.changed:
            self.received.append((time.time(), snapshot))
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[Snapshot], bool], timeout_s: float = 30.0) -> tuple[float, Snapshot]:
        """When a snapshot like that was handed over, and the snapshot."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._find(predicate) is not None, timeout_s), "it did not arrive"
            found = self._find(predicate)
        assert found is not None
        return found

    def _find(self, predicate: Callable[[Snapshot], bool]) -> tuple[float, Snapshot] | None:
        return next((item for item in self.received if predicate(item[1])), None)


@pytest.fixture
def follow() -> Iterator[Callable[[], Following]]:
    """Starts a follower of what the database says now."""
    running: list[Following] = []

    def start() -> Following:
        following = Following()
        following.follower.start()
        running.append(following)
        return following

    yield start
    for following in running:
        following.follower.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.01)


def tie(key: ApiKey, *lists: NetworkList) -> None:
    KeyNetwork.objects.bulk_create(KeyNetwork(key=key, network_list=each) for each in lists)

"""Everything that can be measured, by name: what tables call it, how it is started, and why it may be missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from bench.gateway_target import Gateway, Setup
from bench.peers import LiteLLM, Portkey
from bench.scenarios import ALIAS_COUNTS, KEY_COUNTS, LIMIT_COUNTS
from bench.services import Postgres, Redis, postgres
from bench.targets import Echo, Nginx, Service, Target

LARGE = Setup(keys=10_000, rows=200_000, postgres=True)
"""So much state that a reload and a page have something to do."""


class Surroundings:
    """What targets are started with. Databases are there from when the first wants one until the end of the run."""

    def __init__(self, folder: Path, upstream_port: int, stack: ExitStack) -> None:
        self.folder = folder
        self.upstream_port = upstream_port
        self._stack = stack

    @cached_property
    def postgres(self) -> Postgres:
        return self._stack.enter_context(postgres())

    @cached_property
    def redis(self) -> Redis:
        started = Redis.start(self.folder)
        self._stack.callback(started.stop)
        return started


@dataclass(frozen=True, slots=True)
class Offer:
    """A target that is not started yet."""

    title: str
    start: Callable[[Surroundings], Target]
    missing: Callable[[], str] = str
    """Why it cannot be measured here; empty when it can."""


def _nginx(surroundings: Surroundings) -> Target:
    return Nginx.start(folder=surroundings.folder / "nginx", upstream_port=surroundings.upstream_port)


def start_gateway(name: str, setup: Setup, surroundings: Surroundings) -> Target:
    urls, services = {}, list[Service]()
    if setup.postgres:
        urls["DATABASE_URL"] = surroundings.postgres.create(f"bench_{name.replace('-', '_')}")
        services.append(surroundings.postgres)
    if setup.redis:
        urls["REDIS_URL"] = surroundings.redis.create()
        services.append(surroundings.redis)
    target = Gateway.start(
        setup, folder=surroundings.folder / name, upstream_port=surroundings.upstream_port, urls=urls
    )
    target.services = tuple(services)
    return target


def _missing(setup: Setup) -> str:
    return (Postgres.missing() if setup.postgres else "") or (Redis.missing() if setup.redis else "")


def _offer(name: str, title: str, setup: Setup) -> Offer:
    return Offer(title, partial(start_gateway, name, setup), partial(_missing, setup))


_SETUPS = {
    "gateway": ("gateway, all on", Setup()),
    "postgres": ("on PostgreSQL", Setup(postgres=True)),
    "redis": ("counters in Redis", Setup(redis=True)),
    "one-worker": ("one worker", Setup(server="up", postgres=True, redis=True)),
    "two-workers": ("two workers", Setup(server="up", postgres=True, redis=True, workers=2)),
    "daphne": ("under Daphne", Setup(server="daphne")),
    "large": ("10,000 keys, 200,000 rows", LARGE),
    "many-streams": ("gateway, all on", Setup(in_flight=10_000, settings=(("MAX_UPSTREAM_CONNECTIONS", "0"),))),
    **{f"keys-{count}": ("1 key" if count == 1 else f"{count:,} keys", Setup(keys=count)) for count in KEY_COUNTS},
    **{
        f"limits-{count}": ("1 limit" if count == 1 else f"{count} limits", Setup(limits=count))
        for count in LIMIT_COUNTS
    },
    **{
        f"aliases-{count}": ("1 alias" if count == 1 else f"{count:,} aliases", Setup(aliases=count))
        for count in ALIAS_COUNTS
    },
}

OFFERS = {
    "echo": Offer("ASGI echo", lambda _: Echo.start()),
    "nginx": Offer("nginx proxy_pass", _nginx, Nginx.missing),
    "litellm": Offer("LiteLLM", lambda around: LiteLLM.start(around.folder, around.upstream_port), LiteLLM.missing),
    "portkey": Offer("Portkey", lambda around: Portkey.start(around.upstream_port), Portkey.missing),
    **{name: _offer(name, title, setup) for name, (title, setup) in _SETUPS.items()},
}


def title_of(name: str) -> str:
    """What tables call a target. The mock upstream is no offer: it is started with every run."""
    return "mock upstream" if name == "direct" else OFFERS[name].title

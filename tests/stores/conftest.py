"""Stores run on the event loop of the hot path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _never_blocks(no_blocking_calls: None) -> None:
    """A blocking call in a store fails the test."""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    redis_server = RedisServer(str(tmp_path_factory.mktemp("redis")))
    redis_server.start()
    yield redis_server
    redis_server.kill()

"""What every test gets: no network, a clean environment, the cast, and clocks that stand still when asked to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import time_machine
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests import network_guard
from tests.cast import Cast, create_cast
from tests.fakes import FakeClock
from tests.postgres import postgres, postgres_server, postgres_url

# A fixture that another conftest imports again is another fixture: it would start another server.
__all__ = ["postgres", "postgres_server", "postgres_url"]

network_guard.install()

# How long an example takes depends on what else the machine does. The same examples every time, so that the gate says
# something of the change; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("gateway", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1_000)
settings.load_profile("gateway")
# One line for each request of the tests' own clients would bury what a failure has to say.
logging.getLogger("httpx").setLevel(logging.WARNING)

AGAINST_THE_CLOCK = (
    "tests/api/test_express",
    "tests/bench/",
    "tests/billing/faults/",
    "tests/browser/",
    "tests/dashboard/test_consumers.py",
    "tests/e2e/",
    "tests/llmgateway/cli/",
    "tests/llmgateway/live_config/",
    "tests/llmgateway/pages/",
    "tests/llmgateway/test_question_vectors.py",
    "tests/pipeline/test_token_counts.py",
    "tests/pipeline/transports/",
    "tests/providers/fake_server/",
    "tests/stores/test_redis",
)
"""Tests of real processes, sockets and clocks. What else the machine does can make one miss its moment: it may try again."""

BESIDE_THE_PRODUCT = ("tests/bench/", "tests/e2e/")
"""What these ask runs in processes of its own, which coverage does not see: tracing the side that asks only takes time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(BESIDE_THE_PRODUCT):
            item.add_marker(pytest.mark.no_cover)
        if item.nodeid.startswith(AGAINST_THE_CLOCK):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
"""A Saturday in the middle of a month, of an hour and of a day."""


@pytest.fixture(autouse=True)
def _stays_on_this_machine() -> Iterator[None]:
    """Fail a test that tried to reach the network, even if the code it tests swallowed the error."""
    network_guard.attempts.clear()
    yield
    if network_guard.attempts:
        pytest.fail(f"The test tried to {', '.join(network_guard.attempts)}.")


@pytest.fixture
def clock() -> FakeClock:
    """A clock for code that is given one. It starts at `NOON` and moves when told."""
    return FakeClock(NOON.timestamp())


@pytest.fixture
def frozen_time() -> Iterator[time_machine.Traveller]:
    """`time` and `datetime` stand still at `NOON`; `frozen_time.shift(60)` moves them."""
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def cast(db: None) -> Cast:
    """Alice, Bob and Charlie with their teams and keys."""
    return create_cast()


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Calls of the hot path that would stop the event loop fail. The journal's plain write is the one exception."""
    modules = ["llmgateway.pipeline", "llmgateway.api", "llmgateway.stores"]
    with blockbuster_ctx(scanned_modules=modules) as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("billing/journal.py", {"_write", "open", "attempt", "progress", "close", "refused"})
        yield

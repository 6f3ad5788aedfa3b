"""How long a retry waits: growing by the factor, never above the longest, and left to chance by its jitter."""

from __future__ import annotations

import random

import pytest

from llmgateway.pipeline.attempts import backoff_s
from llmgateway.pipeline.snapshot import Retries


def waits(retries: Retries, rounds: int, times: int = 400) -> list[float]:
    random.seed(7)
    return [backoff_s(retries, rounds) for _ in range(times)]


@pytest.mark.parametrize(("rounds", "seconds"), [(1, 0.1), (2, 0.3), (3, 0.9), (4, 2.0), (5000, 2.0)])
def test_without_jitter_each_wait_is_the_factor_times_the_one_before(rounds: int, seconds: float) -> None:
    retries = Retries(9, 100, 2000, factor=3.0, jitter=0.0)

    assert waits(retries, rounds) == pytest.approx([seconds] * 400)


@pytest.mark.parametrize(("jitter", "least", "most"), [(1.0, 0.0, 0.4), (0.25, 0.3, 0.4)])
def test_jitter_is_the_share_of_a_wait_that_is_left_to_chance(jitter: float, least: float, most: float) -> None:
    found = waits(Retries(9, 100, 2000, factor=2.0, jitter=jitter), 3)

    assert min(found) == pytest.approx(least, abs=0.01)
    assert max(found) == pytest.approx(most, abs=0.01)
    assert least <= min(found) <= max(found) <= most


def test_many_retries_with_a_steep_factor_stay_within_the_longest_wait() -> None:
    assert max(waits(Retries(32_767, 2**31 - 1, 8000, factor=10.0, jitter=0.0), 32_767)) == 8.0

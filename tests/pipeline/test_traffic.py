"""What the gateway knows of how busy and how quick deployments are."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.traffic import FAILURE_S, FEWEST, NEWEST_SHARE, WINDOW, Traffic
from tests.gateways import deployment

MAIN = deployment("main", 1)


def test_what_runs_is_counted_from_its_beginning_to_its_end() -> None:
    traffic = Traffic()

    traffic.began(MAIN)
    traffic.began(MAIN)
    assert (traffic.in_flight(MAIN.id), traffic.in_flight(2)) == (2, 0)

    traffic.ended(MAIN)
    traffic.ended(MAIN)
    assert traffic.in_flight(MAIN.id) == 0


def test_the_mean_follows_the_newest_samples() -> None:
    traffic = Traffic()
    assert traffic.latency_s(MAIN.id) is None

    traffic.first_token(MAIN, 1.0)
    traffic.first_token(MAIN, 2.0)

    assert traffic.latency_s(MAIN.id) == pytest.approx(1.0 + NEWEST_SHARE)


def test_a_failure_counts_as_slow_and_not_as_a_first_token() -> None:
    traffic = Traffic()
    for _ in range(FEWEST):
        traffic.first_token(MAIN, 0.5)
    traffic.failed(MAIN)

    assert traffic.latency_s(MAIN.id) == pytest.approx(0.5 + NEWEST_SHARE * (FAILURE_S - 0.5))
    assert traffic.percentile_s(MAIN.id, 0.99) == 0.5


def test_a_percentile_is_none_until_enough_is_known() -> None:
    traffic = Traffic()
    for _ in range(FEWEST - 1):
        traffic.first_token(MAIN, 1.0)
    assert traffic.percentile_s(MAIN.id, 0.95) is None

    traffic.first_token(MAIN, 1.0)

    assert traffic.percentile_s(MAIN.id, 0.95) == 1.0


@pytest.mark.parametrize(("share", "seconds"), [(0.0, 1.0), (0.5, 51.0), (0.95, 96.0), (1.0, 100.0)])
def test_a_percentile_is_what_that_share_did_not_exceed(share: float, seconds: float) -> None:
    traffic = Traffic()
    for number in range(100, 0, -1):
        traffic.first_token(MAIN, float(number))

    assert traffic.percentile_s(MAIN.id, share) == seconds


def test_only_the_recent_answers_make_the_percentile() -> None:
    traffic = Traffic()
    for _ in range(WINDOW):
        traffic.first_token(MAIN, 9.0)
    assert traffic.percentile_s(MAIN.id, 0.5) == 9.0

    for _ in range(WINDOW):
        traffic.first_token(MAIN, 1.0)

    assert traffic.percentile_s(MAIN.id, 1.0) == 1.0


def test_whoever_was_measured_longest_ago_has_the_smallest_moment() -> None:
    traffic, other = Traffic(), deployment("other", 2)
    traffic.first_token(MAIN, 1.0)
    traffic.first_token(other, 1.0)

    assert traffic.moment(MAIN.id) < traffic.moment(other.id)

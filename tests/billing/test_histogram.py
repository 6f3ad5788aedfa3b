"""Histograms merge by adding, and their percentiles stay within 4 %."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.histogram import GROWTH, Histogram, add, bucket, merge, percentile

latencies = st.lists(st.integers(1, 10**10), min_size=1, max_size=200)


def _of(values: list[int]) -> Histogram:
    histogram: Histogram = {}
    add(histogram, values)
    return histogram


@given(st.lists(st.lists(st.integers(0, 10**10), max_size=50), max_size=6))
def test_merging_equals_counting_together(parts: list[list[int]]) -> None:
    histograms = [_of(part) for part in parts]

    assert merge(histograms) == _of([value for part in parts for value in part])
    assert histograms == [_of(part) for part in parts], "the merged ones are left as they were"


@given(st.lists(st.integers(0, 10**13), max_size=50))
def test_many_values_are_counted_like_each_alone(values: list[int]) -> None:
    """Also beyond the bounds that are kept."""
    assert _of(values) == merge([{bucket(value): 1} for value in values])


@given(latencies, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_four_percent(values: list[int], fraction: float) -> None:
    exact = sorted(values)[math.ceil(fraction * len(values)) - 1]

    found = percentile(_of(values), fraction)

    assert found == pytest.approx(exact, rel=0.04)


def test_no_values_have_no_percentile() -> None:
    assert percentile({}, 0.5) is None


def test_nothing_takes_less_than_a_microsecond() -> None:
    assert percentile(_of([0, 0, 1]), 0.5) == 1.0


@pytest.mark.parametrize("number", range(2, 360))
def test_a_value_is_in_the_bucket_that_its_logarithm_says(number: int) -> None:
    """Also beyond the bounds that are kept, and at the bounds themselves."""
    for microseconds in (int(GROWTH**number) - 1, int(GROWTH**number), int(GROWTH**number) + 1):
        expected = math.ceil(math.log(microseconds) / math.log(GROWTH)) if microseconds > 1 else 0
        assert bucket(microseconds) == str(expected)

"""Mergeable latency histograms: logarithmic buckets, so that sums of hours still give percentiles. No Django.

A histogram is a mapping from bucket number (as text, for JSON) to count. Bucket `n` holds values up to
`GROWTH**n` microseconds; neighbouring bounds differ by 8 %, which bounds the error of a percentile.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

GROWTH = 1.08
_LOG_GROWTH = math.log(GROWTH)

Histogram = dict[str, int]


def _computed(microseconds: int) -> int:
    return 0 if microseconds <= 1 else math.ceil(math.log(microseconds) / _LOG_GROWTH)


def _last_of(number: int) -> int:
    """The largest value in a bucket. What floats make of its bound decides, so that it is asked and not computed."""
    value = int(GROWTH**number)
    while _computed(value + 1) <= number:
        value += 1
    while _computed(value) > number:
        value -= 1
    return value


_BOUNDS = [_last_of(number) for number in range(330)]
"""Up to more than a day: to look a bucket up is quicker than to compute it."""
_BUCKETS = [str(number) for number in range(len(_BOUNDS))]


_place = partial(bisect_left, _BOUNDS)


def bucket(microseconds: int) -> str:
    """The bucket of a value; everything up to one microsecond is in bucket 0."""
    place = _place(microseconds)
    return _BUCKETS[place] if place < len(_BOUNDS) else str(_computed(microseconds))


def add(histogram: Histogram, microseconds: Sequence[int]) -> None:
    """Counts values: each bucket is named once, however many they are."""
    counts = Counter(map(_place, microseconds))
    if counts.pop(len(_BOUNDS), 0):
        counts.update(_computed(value) for value in microseconds if value > _BOUNDS[-1])
    for place, count in counts.items():
        name = _BUCKETS[place] if place < len(_BUCKETS) else str(place)
        histogram[name] = histogram.get(name, 0) + count


def merge(histograms: Iterable[Mapping[str, int]]) -> Histogram:
    """The sum of histograms, as a new one."""
    total: Histogram = {}
    for histogram in histograms:
        for name, count in histogram.items():
            total[name] = total.get(name, 0) + count
    return total


def percentile(histogram: Mapping[str, int], fraction: float) -> float | None:
    """Microseconds below which `fraction` of the values lie: the middle of their bucket, within 4 %. None: no values."""
    count = sum(histogram.values())
    if not count:
        return None
    wanted = max(1, math.ceil(fraction * count))
    seen = 0
    for number in sorted(map(int, histogram)):
        seen += histogram[str(number)]
        if seen >= wanted:
            return float(GROWTH ** (number - 0.5)) if number else 1.0
    raise AssertionError("counts are positive")

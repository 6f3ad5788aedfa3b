"""How much models usually say: the 95th percentile of output, learned per key and model while requests are settled."""

from __future__ import annotations

REMEMBERED = 50_000
"""Pairs of key and model; then all are forgotten, and the next requests teach anew."""
ENOUGH = 20
"""Answers before what was learned is believed."""
HALVED_AT = 2_000
"""Answers after which the older ones count half, so that a changed habit shows."""
STEPS = 4
"""Histogram steps in each power of two: a percentile is at most a fifth too high."""
_BUCKETS = 32 * STEPS


class OutputLearner:
    """Output tokens per choice. Belongs to one event loop."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Histogram] = {}

    def learn(self, key_id: str, model: str, output_tokens: int) -> None:
        histogram = self._seen.get((key_id, model))
        if histogram is None:
            if len(self._seen) >= REMEMBERED:
                self._seen.clear()
            histogram = self._seen[key_id, model] = _Histogram()
        histogram.add(output_tokens)

    def expected(self, key_id: str, model: str) -> int | None:
        """What 95 of 100 answers stay within; None: too few were seen."""
        histogram = self._seen.get((key_id, model))
        return None if histogram is None else histogram.percentile_95()


class _Histogram:
    __slots__ = ("_counts", "_known", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0
        self._known: int | None = None
        """The percentile, until something is added that may move it."""

    def add(self, tokens: int) -> None:
        bucket = _bucket(tokens)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1
        if self._total >= HALVED_AT:
            self._counts = {number: count // 2 for number, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())
        if self._total % 16 == 0:
            self._known = None

    def percentile_95(self) -> int | None:
        if self._total < ENOUGH:
            return None
        if self._known is None:
            self._known = self._percentile()
        return self._known

    def _percentile(self) -> int:
        left = self._total * 95 // 100
        for number in sorted(self._counts):
            left -= self._counts[number]
            if left <= 0:
                return _upper_bound(number)
        raise AssertionError("the counts add up to the total")


def _bucket(tokens: int) -> int:
    """Which bucket holds `tokens`: exact up to 7, then four to each power of two."""
    if tokens < 2 * STEPS:
        return max(0, tokens)
    exponent = tokens.bit_length() - 3
    return min(_BUCKETS, exponent * STEPS + (tokens >> exponent))


def _upper_bound(bucket: int) -> int:
    """The largest number that `_bucket` puts there."""
    if bucket < 2 * STEPS:
        return bucket
    exponent, step = (bucket - STEPS) // STEPS, (bucket - STEPS) % STEPS + STEPS
    return ((step + 1) << exponent) - 1

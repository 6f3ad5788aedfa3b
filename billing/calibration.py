"""How many characters and bytes a token has, learned from what was estimated and what providers then counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import NamedTuple

from django.db.models import F

from billing.models import UsageRecord

FEWEST = 200
"""Requests without which nothing is proposed: a few odd ones must not decide."""
MOST = 50_000
"""The newest requests are enough."""


class Sample(NamedTuple):
    """One request whose input a provider counted."""

    adapter: str
    estimate: int
    """Tokens that were expected."""
    body_bytes: int
    tokens: int
    """Tokens that the provider counted."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """The settings that estimates are made with."""

    chars_per_token: float
    by_adapter: dict[str, float]
    bytes_per_token: float
    max_sample_bytes: int

    def chars_of(self, adapter: str) -> float:
        return self.by_adapter.get(adapter, self.chars_per_token)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one setting should be. Errors are those of the request in the middle, as a share of the true count."""

    setting: str
    """`chars_per_token` or `bytes_per_token`."""
    adapter: str
    """Empty: it is for all of them."""
    present: float
    samples: int
    proposed: float | None = None
    """None: there are too few samples."""
    error_before: float = 0.0
    error_after: float = 0.0


def samples(since: datetime, adapters: dict[str, str], using: str = "default") -> list[Sample]:
    """The newest requests with text alone whose input was estimated and then counted. `adapters` is by provider name."""
    rows = (
        UsageRecord.objects.using(using)
        .filter(
            started_at__gte=since,
            usage_source=UsageRecord.UsageSource.PROVIDER,
            input_estimate__gt=1,
            input_bytes__gt=0,
            image_input=0,
            audio_input=0,
            provider__in=adapters,
        )
        .annotate(tokens=F("input") + F("cache_read") + F("cache_write_5m") + F("cache_write_1h"))
        .filter(tokens__gt=0)
        .order_by("-started_at")
    )
    found = rows.values_list("provider", "input_estimate", "input_bytes", "tokens")[:MOST]
    return [Sample(adapters[provider], *figures) for provider, *figures in found]


def proposals(found: Iterable[Sample], present: Ratios) -> list[Proposal]:
    """Characters per token of each adapter, then bytes per token of all."""
    short: dict[str, list[Sample]] = defaultdict(list)
    long: list[Sample] = []
    for sample in found:
        if sample.body_bytes <= present.max_sample_bytes:
            short[sample.adapter].append(sample)
        elif sample.body_bytes >= 2 * present.max_sample_bytes and _is_text(sample, present):
            # Of shorter ones the characters decide more than the bytes do.
            long.append(sample)
    chars = [_chars(adapter, short[adapter], present.chars_of(adapter)) for adapter in sorted(short)]
    learned = {each.adapter: each.proposed for each in chars if each.proposed is not None}
    return [*chars, _bytes(long, present, learned)]


def _is_text(sample: Sample, present: Ratios) -> bool:
    """Whether the whole body was counted as text: a provider counts a picture in it otherwise than its bytes."""
    start = present.max_sample_bytes / present.chars_of(sample.adapter)
    counted = present.max_sample_bytes + (sample.estimate - start) * present.bytes_per_token
    return abs(counted - sample.body_bytes) <= sample.body_bytes / 50


def _chars(adapter: str, found: list[Sample], present: float) -> Proposal:
    if len(found) < FEWEST:
        return Proposal("chars_per_token", adapter, present, len(found))
    characters = [(sample.estimate - 1) * present for sample in found]
    pairs = list(zip(characters, found, strict=True))
    proposed = _sane(median(chars / sample.tokens for chars, sample in pairs))
    return Proposal(
        "chars_per_token",
        adapter,
        present,
        len(found),
        proposed,
        _error((sample.estimate, sample.tokens) for sample in found),
        _error((chars / proposed + 1, sample.tokens) for chars, sample in pairs),
    )


def _bytes(found: list[Sample], present: Ratios, learned: dict[str, float]) -> Proposal:
    beyond = []
    for sample in found:
        start = present.max_sample_bytes / learned.get(sample.adapter, present.chars_of(sample.adapter))
        if sample.tokens > start:
            beyond.append((start, sample))
    if len(beyond) < FEWEST:
        return Proposal("bytes_per_token", "", present.bytes_per_token, len(beyond))
    rest = present.max_sample_bytes
    proposed = _sane(median((each.body_bytes - rest) / (each.tokens - start) for start, each in beyond))
    return Proposal(
        "bytes_per_token",
        "",
        present.bytes_per_token,
        len(beyond),
        proposed,
        _error((each.estimate, each.tokens) for _, each in beyond),
        _error((start + (each.body_bytes - rest) / proposed, each.tokens) for start, each in beyond),
    )


def _sane(ratio: float) -> float:
    """As the settings take it."""
    return min(1000.0, max(0.1, round(ratio, 2)))


def _error(pairs: Iterable[tuple[float, int]]) -> float:
    return median(abs(estimate - tokens) / tokens for estimate, tokens in pairs)


__all__ = ["FEWEST", "Proposal", "Ratios", "Sample", "proposals", "samples"]

"""From usage to money: one function for the hold, the quote and the bill. Pure integers, no Django."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from providers.adapters.types import Usage


@dataclass(frozen=True)
class PriceVersion:
    """What a model costs from a moment on, in pico-dollars per token (`request`: per request).

    An absent input bucket costs `input`, an absent output bucket `output`: the loader fills them in, so that
    arithmetic here has no special cases. `id` is that of the `Price` row, kept on every ledger row.
    """

    id: int
    effective_from: float
    """Seconds since the epoch."""
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    reasoning: int
    audio_output: int
    request: int = 0

    @cached_property
    def dearest_input(self) -> int:
        """The most that one input token can cost."""
        return max(
            self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.audio_input, self.image_input
        )

    @cached_property
    def dearest_output(self) -> int:
        """The most that one output token can cost."""
        return max(self.output, self.reasoning, self.audio_output)


def cost(price: PriceVersion, usage: Usage) -> int:
    """Pico-dollars of `usage` at `price`. Exact: sums of integer products."""
    return (
        usage.input * price.input
        + usage.output * price.output
        + usage.cache_read * price.cache_read
        + usage.cache_write_5m * price.cache_write_5m
        + usage.cache_write_1h * price.cache_write_1h
        + usage.audio_input * price.audio_input
        + usage.image_input * price.image_input
        + usage.reasoning * price.reasoning
        + usage.audio_output * price.audio_output
        + price.request
    )


def in_force(versions: tuple[PriceVersion, ...], moment: float) -> PriceVersion | None:
    """The version in force at `moment` (seconds since the epoch); `versions` are sorted by `effective_from`."""
    for version in reversed(versions):
        if version.effective_from <= moment:
            return version
    return None


def dearest(price: PriceVersion, *, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens can cost at `price`, whichever buckets they turn out to be in."""
    return input_tokens * price.dearest_input + output_tokens * price.dearest_output + price.request

"""From usage to money: one function for the hold, the quote and the bill. Pure integers, no Django."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from providers.adapters.types import Usage

DEFAULT_PRICE_ID = 0
"""Of the default price: no `Price` row has it."""


@dataclass(frozen=True)
class PriceVersion:
    """What a model costs from a moment on, in pico-dollars per token (`request`: per request).

    An absent input bucket costs `input`, an absent output bucket `output`: the loader fills them in, so that
    arithmetic here has no special cases. `id` is that of the `Price` row, kept on every ledger row; 0: the default price.
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

    @property
    def is_default(self) -> bool:
        """Whether it stands in for the price that a model does not have."""
        return self.id == DEFAULT_PRICE_ID

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


def default_price(*, input_price: int, output_price: int, request_price: int) -> PriceVersion:
    """What a model costs while no price of its own is in force: older than any, so that each of them wins."""
    return PriceVersion(
        id=DEFAULT_PRICE_ID,
        effective_from=-math.inf,
        input=input_price,
        output=output_price,
        cache_read=input_price,
        cache_write_5m=input_price,
        cache_write_1h=input_price,
        audio_input=input_price,
        image_input=input_price,
        reasoning=output_price,
        audio_output=output_price,
        request=request_price,
    )


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

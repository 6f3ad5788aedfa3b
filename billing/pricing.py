"""From usage to money: one function for the hold, the quote and the bill. Pure integers, no Django."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from providers.adapters.types import Units, Usage

DEFAULT_PRICE_ID = 0
"""Of the default price: no `Price` row has it."""


class UnitPrice(NamedTuple):
    """What a unit costs that is no token: `pico_usd` for every `per` of what is counted as `name`."""

    name: str
    pico_usd: int
    per: int = 1


DRAWN = "image_token"
"""A unit that is also a token of `output`: of an image in an answer. Its price stands in place of `output`'s."""


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
    units: tuple[UnitPrice, ...] = ()
    """Of what is not counted in tokens; mostly there is none."""

    @cached_property
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
        drawn = price_of_unit(self.units, DRAWN)
        return max(self.output, self.reasoning, self.audio_output, drawn.pico_usd if drawn is not None else 0)


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
    """Pico-dollars of `usage` at `price`. Exact: sums of integer products; see `units_cost` for those of units."""
    tokens = (
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
    if not usage.units:
        return tokens
    return tokens + units_cost(price.units, usage.units) - priced_apart(price.units, usage.units) * price.output


def priced_apart(prices: tuple[UnitPrice, ...], units: Units) -> int:
    """How many tokens of `output` are among `units`, with a price of their own."""
    return sum([amount for name, amount in units if name == DRAWN and price_of_unit(prices, name) is not None])


def units_cost(prices: tuple[UnitPrice, ...], units: Units) -> int:
    """Pico-dollars of `units`; what has no price costs nothing.

    Exact where the price of what is counted is whole: always for characters, images and searches, and for sound at up to
    nine decimals of a dollar a second. Otherwise rounded once for each unit of a call, half up.
    """
    total = 0
    for name, amount in units:
        found = price_of_unit(prices, name)
        if found is not None:
            total += (found.pico_usd * amount + found.per // 2) // found.per
    return total


def price_of_unit(prices: tuple[UnitPrice, ...], name: str) -> UnitPrice | None:
    """The most particular price of a unit: of `image:high:1024x1024`, else of `image:high`, `image:1024x1024`, `image`.

    Of an image whose quality or size has no price, where there is no price of any image, the dearest; None: it has none.
    """
    by_name = {each.name: each for each in prices}
    kind, *details = name.split(":")
    for known in (name, *(f"{kind}:{detail}" for detail in details), kind):
        if known in by_name:
            return by_name[known]
    return dearest_of(prices, kind)


def dearest_units(prices: tuple[UnitPrice, ...], units: Units) -> int:
    """The most that `units` can cost, whatever quality or size they turn out to have."""
    total = 0
    for name, amount in units:
        found = dearest_of(prices, name.partition(":")[0])
        if found is not None:
            total += -(-found.pico_usd * amount // found.per)
    return total


def dearest_of(prices: tuple[UnitPrice, ...], kind: str) -> UnitPrice | None:
    """Of all units of a kind (`image`, `millisecond`); None: none of them has a price."""
    of_kind = [each for each in prices if each.name.partition(":")[0] == kind]
    return max(of_kind, key=lambda each: each.pico_usd * 10**9 // each.per) if of_kind else None


def in_force(versions: tuple[PriceVersion, ...], moment: float) -> PriceVersion | None:
    """The version in force at `moment` (seconds since the epoch); `versions` are sorted by `effective_from`."""
    for version in reversed(versions):
        if version.effective_from <= moment:
            return version
    return None


def dearest(price: PriceVersion, *, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens can cost at `price`, whichever buckets they turn out to be in."""
    return input_tokens * price.dearest_input + output_tokens * price.dearest_output + price.request

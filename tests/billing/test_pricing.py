"""One price function for the hold, the quote and the bill."""

from __future__ import annotations

from dataclasses import fields

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from billing.models import TOKEN_BUCKETS
from billing.pricing import PriceVersion, cost, dearest, default_price, in_force
from providers.adapters.types import Usage

prices = st.builds(
    PriceVersion,
    id=st.just(1),
    effective_from=st.just(0.0),
    request=st.integers(0, 10**12),
    **{bucket: st.integers(0, 10**9) for bucket in TOKEN_BUCKETS},
)
usages = st.builds(Usage, **{bucket: st.integers(0, 10**7) for bucket in TOKEN_BUCKETS})


def _price(effective_from: float, identity: int = 1) -> PriceVersion:
    return PriceVersion(identity, effective_from, 1, 1, 1, 1, 1, 1, 1, 1, 1)


def test_prices_and_usage_know_the_same_buckets() -> None:
    assert set(TOKEN_BUCKETS) <= set(Usage.__struct_fields__)
    assert set(TOKEN_BUCKETS) <= {field.name for field in fields(PriceVersion)}


@given(prices, usages)
def test_the_cost_is_the_sum_over_the_buckets(price: PriceVersion, usage: Usage) -> None:
    expected = price.request + sum(getattr(usage, bucket) * getattr(price, bucket) for bucket in TOKEN_BUCKETS)

    assert cost(price, usage) == expected


@given(prices, usages, usages)
def test_cost_adds_up(price: PriceVersion, one: Usage, other: Usage) -> None:
    together = Usage(**{bucket: getattr(one, bucket) + getattr(other, bucket) for bucket in TOKEN_BUCKETS})

    assert cost(price, together) == cost(price, one) + cost(price, other) - price.request


@given(prices, usages)
def test_no_split_into_buckets_costs_more_than_the_dearest(price: PriceVersion, usage: Usage) -> None:
    counts = {bucket: count for bucket, count in msgspec.structs.asdict(usage).items() if bucket in TOKEN_BUCKETS}
    output = counts["output"] + counts["reasoning"] + counts["audio_output"]

    assert cost(price, usage) <= dearest(price, input_tokens=sum(counts.values()) - output, output_tokens=output)


@given(st.lists(st.integers(0, 100), unique=True, max_size=8), st.integers(-1, 101))
def test_the_latest_version_that_has_begun_is_in_force(starts: list[int], moment: int) -> None:
    versions = tuple(_price(float(start), identity=start) for start in sorted(starts))

    found = in_force(versions, float(moment))

    begun = [start for start in starts if start <= moment]
    assert (found.id if found else None) == (max(begun) if begun else None)


def test_any_price_of_a_models_own_comes_before_the_default() -> None:
    default = default_price(input_price=1, output_price=2, request_price=3)
    versions = (default, _price(100.0, 8))

    assert in_force(versions, 99.0) is default
    assert in_force(versions, 100.0) == versions[1]


@given(usages)
def test_a_default_price_knows_input_and_output_alone(usage: Usage) -> None:
    default = default_price(input_price=5, output_price=11, request_price=3)

    assert cost(default, usage) == 5 * usage.input_tokens + 11 * usage.output_tokens + 3

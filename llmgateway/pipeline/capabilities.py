"""What callers of an alias can count on: what all of its deployments can do, at the dearest price that may apply."""

from __future__ import annotations

from collections.abc import Iterable

from billing.pricing import PriceVersion, in_force
from llmgateway.pipeline.snapshot import Alias, Capabilities


def capabilities_of(alias: Alias) -> Capabilities:
    """What is known of every deployment; what one cannot do is not promised, and what is unknown of one is left out."""
    deployments = alias.deployments
    each = [deployment.capabilities for deployment in deployments]
    return Capabilities(
        context_window=_smallest(one.context_window for one in each),
        max_output_tokens=_smallest(deployment.max_output_tokens for deployment in deployments),
        input_modalities=_common([one.input_modalities for one in each]),
        output_modalities=_common([one.output_modalities for one in each]),
        tools=_all(one.tools for one in each),
        reasoning=_all(one.reasoning for one in each),
        deprecated_on=min((one.deprecated_on for one in each if one.deprecated_on), default=""),
    )


def dearest_of(alias: Alias, now: float) -> tuple[int, int] | None:
    """Pico-dollars per token of input and of output, as of `now`; None: a deployment has no price."""
    prices: list[PriceVersion] = []
    for deployment in alias.deployments:
        price = in_force(deployment.prices, now)
        if price is None:
            return None
        prices.append(price)
    return (max(price.input for price in prices), max(price.output for price in prices)) if prices else None


def _smallest(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return min((number for number in known if number is not None), default=None) if None not in known else None


def _common(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    if not lists:
        return ()
    return tuple([kind for kind in lists[0] if all(kind in each for each in lists)])


def _all(answers: Iterable[bool | None]) -> bool | None:
    known = list(answers)
    if False in known:
        return False
    return True if known and None not in known else None

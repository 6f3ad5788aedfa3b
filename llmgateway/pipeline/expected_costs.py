"""What a request would probably cost at each deployment, by the price function of the bill."""

from __future__ import annotations

from billing.pricing import cost, in_force
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.terms import Terms
from providers.adapters.types import Usage


class ExpectedCosts:
    """Of one request of one key, at the prices in force `now` (seconds since the epoch)."""

    def __init__(self, terms: Terms, request: ModelRequest, key_id: str, *, now: float) -> None:
        self._terms = terms
        self._request = request
        self._key_id = key_id
        self._now = now

    def __call__(self, deployment: Deployment) -> int | None:
        """Pico-dollars; None: it has no price."""
        price = in_force(deployment.prices, self._now)
        if price is None:
            return None
        expected = self._terms.expected(self._request, self._key_id, deployment)
        dialect = self._request.dialect
        units = dialect.asked_units(self._request.body) if dialect.measures else ()
        return cost(price, Usage(input=expected.input, output=expected.output, units=units))


def nobody_knows(_: Deployment) -> int | None:
    """For strategies that do not look at costs."""
    return None

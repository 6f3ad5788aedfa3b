"""What a request would use and cost, without asking anybody: by the price and the function of the bill. Pure."""

from __future__ import annotations

import msgspec

from billing.pricing import PriceVersion, in_force
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.spending import expected_cost
from llmgateway.pipeline.terms import estimated_input


class Quote(msgspec.Struct, frozen=True):
    """What one deployment would take for so many tokens."""

    deployment: Deployment
    input_tokens: int
    output_tokens: int
    price: PriceVersion | None
    """None: the model has none."""

    @property
    def pico_usd(self) -> int | None:
        """None: nobody can tell."""
        if self.price is None:
            return None
        return expected_cost(self.price, input_tokens=self.input_tokens, output_tokens=self.output_tokens)


def quote(
    request: ModelRequest, deployment: Deployment, *, now: float, output_tokens: int, input_tokens: int | None = None
) -> Quote:
    """What `request` would cost at `deployment`, at the price in force `now` (seconds since the epoch).

    `input_tokens` stands in place of what the body is estimated at.
    """
    found = estimated_input(request.body, deployment) if input_tokens is None else input_tokens
    return Quote(deployment, found, output_tokens, in_force(deployment.prices, now))


def question_tokens(body: bytes, deployment: Deployment) -> int:
    """About how many tokens a question has, for who asks that alone: counted where somebody can, else as for limits."""
    counter = deployment.estimation.counter
    counted = None if counter is None else counter.request(body)
    return estimated_input(body, deployment) if counted is None else counted

"""What a caller would pay for one request at most: what it is expected to cost, and how much output that pays for. Pure."""

from __future__ import annotations

from billing.money import format_usd
from billing.pricing import PriceVersion, cost
from llmgateway.pipeline.errors import BudgetExceededError
from llmgateway.pipeline.requests import ModelRequest, Spending
from llmgateway.pipeline.snapshot import Deployment
from providers.adapters.bounds import NotBoundableError, bound
from providers.adapters.types import Usage


def expected_cost(price: PriceVersion, *, input_tokens: int, output_tokens: int) -> int:
    """Pico-dollars, by the function that makes the bill."""
    return cost(price, Usage(input=input_tokens, output=output_tokens))


def affordable_output(
    request: ModelRequest,
    spending: Spending,
    deployment: Deployment,
    price: PriceVersion,
    *,
    input_tokens: int,
    own_cap: int | None,
) -> int | None:
    """Tokens of output that `spending` pays for at `deployment`; None: it pays for any number.

    The input counts as the most that its bytes can be. Where that leaves less than what is expected, it counts as
    estimated: else every long question would be refused, for a token is four bytes rather than one.

    Raises:
        BudgetExceededError: it is expected to cost more than the caller wants to pay.
    """
    expected = spending.expected_output if own_cap is None else min(spending.expected_output, own_cap)
    costs = expected_cost(price, input_tokens=input_tokens, output_tokens=expected)
    if costs > spending.most_pico_usd:
        raise _too_dear(deployment, costs, spending)
    if not price.dearest_output:
        return None
    least = max(expected, deployment.adapter.min_output_tokens)
    for tokens in (_most_input(request, deployment), input_tokens):
        left = spending.most_pico_usd - tokens * price.dearest_input - price.request
        if left >= least * price.dearest_output:
            return left // price.dearest_output
    return least


def _most_input(request: ModelRequest, deployment: Deployment) -> int:
    """The most tokens that it can hold; of what has no bound, as many as it has bytes."""
    try:
        return bound(request.body, request.dialect, deployment.adapter, choices=request.head.choices).input_tokens
    except NotBoundableError:
        return len(request.body)


def _too_dear(deployment: Deployment, costs: int, spending: Spending) -> BudgetExceededError:
    return BudgetExceededError(
        f"This request is expected to cost {format_usd(costs)} at '{deployment.name}', and `max_cost_usd` allows "
        f"{format_usd(spending.most_pico_usd)}. Nothing was sent. Raise it, ask for less, or choose a cheaper model.",
        code="max_cost_exceeded",
        param="max_cost_usd",
    )


def unpriced(deployment: Deployment) -> BudgetExceededError:
    return BudgetExceededError(
        f"The model '{deployment.model}' of '{deployment.provider}' has no price, so nobody can tell whether it stays "
        "below `max_cost_usd`. Leave that out, or ask an admin to add a price.",
        code="model_not_priced",
        param="max_cost_usd",
    )

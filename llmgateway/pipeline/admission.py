"""May this request run, and what does it hold meanwhile? Every billable route passes through here."""

from __future__ import annotations

import math

from billing.money import format_usd, plain, usd
from billing.pricing import dearest, in_force
from llmgateway.pipeline.errors import BudgetExceededError, ErrorHeaders, LedgerUnavailableError, RateLimitError
from llmgateway.pipeline.protocols import (
    AdmissionStore,
    BudgetRefusal,
    LimitRefusal,
    Reservation,
    StoreRefusal,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Deployment, Key
from providers.adapters.types import Operation

EXPECTED_OUTPUT_TOKENS = 1024
"""Held for output when the request names no smaller cap."""
LARGEST_HOLD = 2**62
"""More than any budget, and still a number that every store can keep."""


def hold(request: ModelRequest, key: Key, candidates: tuple[Deployment, ...], input_tokens: int) -> int:
    """Pico-dollars to hold: the input estimate and the expected output at the dearest candidate.

    Raises:
        BudgetExceededError: the key has a budget and a candidate has no price, so its cost would not count.
    """
    output_tokens = expected_output(request)
    dearest_hold = 0
    for deployment in candidates:
        price = in_force(deployment.prices, request.started_at)
        if price is not None:
            dearest_hold = max(dearest_hold, dearest(price, input_tokens=input_tokens, output_tokens=output_tokens))
        elif key.budgets:
            raise _unpriced(deployment)
    return min(dearest_hold, LARGEST_HOLD)


def expected_output(request: ModelRequest) -> int:
    """Output tokens that a request probably takes, over all its choices."""
    if request.operation is Operation.EMBEDDINGS:
        return 0
    head = request.head
    cap = head.max_completion_tokens or head.max_tokens or EXPECTED_OUTPUT_TOKENS
    expected = cap if 0 < cap < EXPECTED_OUTPUT_TOKENS else EXPECTED_OUTPUT_TOKENS
    return expected * max(1, head.n or 1)


async def admit(store: AdmissionStore, request: ModelRequest, key: Key, hold_pico_usd: int) -> Reservation:
    """Take one request from every limit and the hold from every budget of the key, or nothing at all.

    Raises:
        RateLimitError: a limit has no room; named with its scope, and when there will be room.
        BudgetExceededError: a budget cannot pay the hold; named with what is settled and held.
    """
    decision = await store.admit(
        request.id,
        demand=Tokens(),
        limits=key.limits,
        budgets=key.budgets,
        targets=(TargetTerms(expected_pico_usd=hold_pico_usd),),
    )
    if isinstance(decision, LimitRefusal):
        raise _limited(decision, key)
    if isinstance(decision, BudgetRefusal):
        raise _exhausted(decision, key)
    if isinstance(decision, StoreRefusal):
        raise LedgerUnavailableError(decision.reason)
    return decision


def limit_headers(reservation: Reservation) -> ErrorHeaders:
    """`x-ratelimit-*-requests` of the tightest limit."""
    tightest = reservation.requests
    return () if tightest is None else _rate_headers(tightest.limit, tightest.remaining, tightest.reset_s)


def _rate_headers(limit: int, remaining: int, reset_s: float) -> ErrorHeaders:
    return (
        (b"x-ratelimit-limit-requests", b"%d" % limit),
        (b"x-ratelimit-remaining-requests", b"%d" % remaining),
        (b"x-ratelimit-reset-requests", b"%.3fs" % reset_s),
    )


def _owner(scope: str, key: Key) -> str:
    if scope == "key":
        return f"API key '{key.name}'"
    return f"Team '{key.team_name}'" if scope == "team" else "The gateway"


def _limited(refusal: LimitRefusal, key: Key) -> RateLimitError:
    limit = refusal.limit
    named = (
        (b"x-ratelimit-scope", limit.scope.encode()),
        (b"x-ratelimit-name", limit.name.encode()),
    )
    if refusal.retry_after_s is None:
        return RateLimitError(
            f"{_owner(limit.scope, key)} allows {limit.name}, so no request can pass. Ask an admin to raise the limit.",
            code="request_exceeds_limit",
            headers=(*named, (b"x-should-retry", b"false")),
        )
    wait_s = math.ceil(refusal.retry_after_s)
    return RateLimitError(
        f"{_owner(limit.scope, key)} allows {limit.name}. Try again in {wait_s} s.",
        headers=(
            *named,
            (b"retry-after", b"%d" % wait_s),
            *_rate_headers(limit.amount, refusal.remaining, refusal.retry_after_s),
        ),
    )


def _exhausted(refusal: BudgetRefusal, key: Key) -> BudgetExceededError:
    budget = refusal.budget
    spent = f"{format_usd(refusal.settled_pico_usd)} settled and {format_usd(refusal.held_pico_usd)} held"
    advice = (
        "It never resets; ask an admin to raise it."
        if refusal.resets_at is None
        else "Wait for its next window or ask an admin to raise it."
    )
    headers: ErrorHeaders = (
        (b"x-budget-name", budget.name.encode()),
        (b"x-budget-limit-usd", plain(usd(budget.limit_pico_usd)).encode()),
        (b"x-budget-settled-usd", plain(usd(refusal.settled_pico_usd)).encode()),
        (b"x-budget-held-usd", plain(usd(refusal.held_pico_usd)).encode()),
    )
    if refusal.resets_at is not None:
        headers = (*headers, (b"x-budget-resets-at", b"%d" % refusal.resets_at))
    return BudgetExceededError(
        f"{_owner(budget.scope, key)} has a budget '{budget.name}' of {format_usd(budget.limit_pico_usd)} per "
        f"{budget.window}, of which {spent}; this request does not fit. {advice}",
        headers=headers,
    )


def _unpriced(deployment: Deployment) -> BudgetExceededError:
    return BudgetExceededError(
        f"The model '{deployment.model}' of '{deployment.provider}' has no price, so it cannot count against a budget. "
        "Ask an admin to add a price.",
        code="model_not_priced",
    )

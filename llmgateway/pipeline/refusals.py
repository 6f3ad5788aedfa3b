"""What a refused request is told: which limit or budget of whom, with its figures, and what to do next."""

from __future__ import annotations

import math

from billing.money import format_usd, plain, usd
from llmgateway.pipeline.errors import (
    BudgetExceededError,
    ErrorHeaders,
    GatewayError,
    LimitsUnavailableError,
    RateLimitError,
)
from llmgateway.pipeline.header_lines import HeaderLines, pairs
from llmgateway.pipeline.protocols import BudgetRefusal, Headroom, LimitRefusal, Refusal, Reservation, Tokens
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.snapshot import AdmissionRules, BudgetRule, Limit

_BOTH = b"".join(
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%.3fs\r\n"
    % (kind, kind, kind)
    for kind in (b"requests", b"tokens")
)
_DO_NOT_RETRY = (b"x-should-retry", b"false")


def as_error(refusal: Refusal, rules: Rules, demand: Tokens, settings: AdmissionRules, *, now: float) -> GatewayError:
    """The answer to a refused request."""
    if isinstance(refusal, BudgetRefusal):
        return _exhausted(refusal, rules, settings, refusal.budget.limit_at(now))
    if isinstance(refusal, LimitRefusal):
        return _limited(refusal, rules, demand, settings)
    return LimitsUnavailableError(
        f"Limits and budgets cannot be checked now: {refusal.reason}. Try again in a moment.",
        headers=((b"retry-after", b"1"),),
    )


def limit_lines(reservation: Reservation) -> HeaderLines:
    """`x-ratelimit-*` of the tightest limit of requests and of the tightest limit of tokens."""
    requests, tokens = reservation.requests, reservation.tokens
    if requests is None:
        return _headroom_lines(b"tokens", tokens) if tokens is not None else b""
    if tokens is None:
        return _headroom_lines(b"requests", requests)
    if math.inf in (requests.reset_s, tokens.reset_s):
        return _headroom_lines(b"requests", requests) + _headroom_lines(b"tokens", tokens)
    return _BOTH % (
        requests.limit,
        requests.remaining,
        requests.reset_s,
        tokens.limit,
        tokens.remaining,
        tokens.reset_s,
    )


def _headroom_lines(kind: bytes, headroom: Headroom) -> HeaderLines:
    if headroom.reset_s == math.inf:  # A total never resets.
        return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\n" % (
            kind,
            headroom.limit,
            kind,
            headroom.remaining,
        )
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %.3fs\r\n" % (
        kind,
        headroom.limit,
        kind,
        headroom.remaining,
        kind,
        headroom.reset_s,
    )


def _limited(refusal: LimitRefusal, rules: Rules, demand: Tokens, settings: AdmissionRules) -> GatewayError:
    limit = refusal.limit
    named: ErrorHeaders = ((b"x-ratelimit-scope", limit.scope.encode()), (b"x-ratelimit-name", _header(limit.name)))
    allows = f"{_owner(limit, rules)} allows {limit.name}"
    if limit.metric == "concurrency" and refusal.retry_after_s is not None:
        wait_s = max(1, math.ceil(refusal.retry_after_s))
        return RateLimitError(
            f"{allows}, and as many are running. Try again when one of them has ended.",
            code="concurrency_limit_exceeded",
            headers=(*named, (b"retry-after", b"%d" % wait_s)),
        )
    if limit.per == "total" and refusal.remaining < limit.amount:
        return _quota_used_up(refusal, allows, named, settings)
    if refusal.retry_after_s is None:
        return RateLimitError(
            f"{allows}, {_why_never(limit, demand)}",
            code="request_exceeds_limit",
            headers=(*named, _DO_NOT_RETRY),
        )
    wait_s = math.ceil(refusal.retry_after_s)
    kind = b"requests" if limit.metric == "requests" else b"tokens"
    headers = (
        *named,
        (b"retry-after", b"%d" % wait_s),
        *pairs(_headroom_lines(kind, Headroom(limit.amount, refusal.remaining, refusal.retry_after_s))),
    )
    return RateLimitError(f"{allows}. Try again in {wait_s} s.", headers=headers)


def _why_never(limit: Limit, demand: Tokens) -> str:
    if limit.amount == 0 or limit.metric in {"requests", "concurrency"}:
        return "so no request can pass. Ask an admin to raise the limit."
    return (
        f"and this request is estimated at {demand.amount(limit.metric):,}, so no wait helps. "
        "Send less, ask for fewer output tokens, or ask an admin to raise the limit."
    )


def _quota_used_up(
    refusal: LimitRefusal, allows: str, named: ErrorHeaders, settings: AdmissionRules
) -> BudgetExceededError:
    """A `total` is a quota: SDKs must not wait for it."""
    advice = "Ask an admin to raise the quota."
    if refusal.retry_after_s is not None:
        advice = f"It starts anew in {math.ceil(refusal.retry_after_s)} s; or ask an admin to raise it."
    return BudgetExceededError(
        f"{allows}, of which {refusal.remaining:,} are left; this request does not fit. {advice}",
        status=settings.quota_status,
        headers=(*named, _DO_NOT_RETRY) if settings.quota_status == 429 else named,
    )


def _exhausted(
    refusal: BudgetRefusal, rules: Rules, settings: AdmissionRules, limit_pico_usd: int
) -> BudgetExceededError:
    budget = refusal.budget
    spent = f"{format_usd(refusal.settled_pico_usd)} settled and {format_usd(refusal.held_pico_usd)} held"
    advice = (
        "It never resets; ask an admin to raise it."
        if refusal.resets_at is None
        else "Wait for its next window or ask an admin to raise it."
    )
    headers: ErrorHeaders = (
        (b"x-budget-name", _header(budget.name)),
        (b"x-budget-limit-usd", plain(usd(limit_pico_usd)).encode()),
        (b"x-budget-settled-usd", plain(usd(refusal.settled_pico_usd)).encode()),
        (b"x-budget-held-usd", plain(usd(refusal.held_pico_usd)).encode()),
    )
    if refusal.resets_at is not None:
        headers = (*headers, (b"x-budget-resets-at", b"%d" % refusal.resets_at))
    if settings.quota_status == 429:
        headers = (*headers, _DO_NOT_RETRY)
    window = "in total" if budget.window == "total" else f"per {budget.window}"
    return BudgetExceededError(
        f"{_owner(budget, rules)} has a budget '{budget.name}' of {format_usd(limit_pico_usd)} "
        f"{window}, of which {spent}; this request does not fit. {advice}",
        status=settings.quota_status,
        headers=headers,
    )


def _owner(rule: Limit | BudgetRule, rules: Rules) -> str:
    """Whose rule it is, and for each of whom."""
    subject = {"ip": " for each address", "end_user": " for each end user"}.get(rule.each, "")
    return _owner_name(rule.owner.partition(":")[0] or rule.scope, rule, rules) + subject


def _owner_name(scope: str, rule: Limit | BudgetRule, rules: Rules) -> str:
    if scope == "key":
        return f"API key '{rules.key.name}'"
    if scope == "team":
        return f"Team '{rules.key.team_name}'"
    if scope in {"model", "alias"}:
        return f"The model '{rules.model_of(rule)}'"
    return f"The {scope} of '{rules.alias.name}'" if scope in {"provider", "deployment"} else "The gateway"


def _header(text: str) -> bytes:
    """A name that people chose, as a header can carry it."""
    return text.encode("ascii", "backslashreplace")

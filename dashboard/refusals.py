"""Why requests were refused, in words: the code that the caller got, how often, and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REMEDIES = {
    "rate_limit_exceeded": "Callers must wait as long as the answer says; or raise the limit.",
    "concurrency_limit_exceeded": "Fewer at the same time; or raise the limit.",
    "request_exceeds_limit": "One request is larger than the whole limit; no wait helps.",
    "insufficient_quota": "A budget or a quota of tokens is used up.",
    "model_not_priced": "The model needs a price before a budget can pay for it.",
    "cost_not_boundable": "A strict budget needs the largest cost of a request on the deployment.",
    "invalid_api_key": "The key was revoked, or its old secret has ended.",
    "key_disabled": "The key is switched off.",
    "key_expired": "The key's time is over; it needs a new end or another key.",
    "key_not_yet_valid": "The key's time has not begun.",
    "ip_not_allowed": "The key was used from an address that it does not allow.",
    "model_not_allowed": "The key does not allow the model.",
    "model_not_found": "There is no such model; the list of models has those there are.",
    "invalid_json": "The body is not JSON.",
    "invalid_value": "A field of the request is missing or wrong; the answer names it.",
    "request_too_large": "The body is larger than allowed.",
    "request_timeout": "The body did not arrive in time.",
    "no_healthy_target": "Nobody can answer for the model at the moment.",
    "ledger_unavailable": "The usage journal is full or cannot be written; operators must look.",
    "limits_unavailable": "Shared counters are away; operators must look.",
    "configuration_stale": "The database has been away too long; operators must look.",
}
"""What to do, by the code. Others speak for themselves."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason, and the requests that were refused for it."""

    code: str
    """Empty: it was not kept."""
    requests: int
    share: float

    @property
    def remedy(self) -> str:
        return REMEDIES.get(self.code, "")


def refusals_of(by_code: Mapping[str, int]) -> tuple[Refusal, ...]:
    """As `refusals_by_code` counts them, in its order."""
    whole = sum(by_code.values())
    return tuple(Refusal(code, requests, requests / whole) for code, requests in by_code.items())

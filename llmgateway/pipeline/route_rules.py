"""What operators decide about where requests go, how long they may take, and what happens when a target fails."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgateway.cel import Program
    from llmgateway.pipeline.snapshot import Timeouts


class FallbackCause(enum.StrEnum):
    """What must have happened before a fallback is asked."""

    ERROR = "error"
    """Anything for which another target is worth trying, after the alias's own targets and retries."""
    RATE_LIMIT = "rate_limit"
    """Providers limit us, or limits of ours on providers, deployments or models have no room."""
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_POLICY = "content_policy"
    BUDGET_EXHAUSTED = "budget_exhausted"
    """A budget cannot pay the request here; the fallback is a cheaper alias."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another alias that is asked in this one's place. Those of one cause are tried in order."""

    alias: str
    cause: FallbackCause = FallbackCause.ERROR


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """Where a request goes instead, if an expression holds. The first rule that holds decides."""

    name: str
    when: str
    """CEL, over what `llmgateway.pipeline.conditions` offers."""
    use: str
    """An alias."""
    program: Program = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Fields of request bodies, in OpenAI's words, that an alias sets."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """For requests that do not say."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Whatever requests say; null removes a field."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, in place of the deployments' own; None: theirs hold."""

    first_token_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None


@lru_cache(maxsize=4096)
def with_patience(timeouts: Timeouts, patience: Patience) -> Timeouts:
    """`timeouts` of a deployment, in whose place an alias has others."""
    own = {"first_token_s": patience.first_token_s, "idle_s": patience.idle_s, "total_s": patience.total_s}
    return replace(timeouts, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True)
class CacheRule:
    """That answers of an alias are kept, and how they are found again."""

    ttl_s: float
    mode: str = "exact"
    """`exact` or `semantic`."""
    similarity: float = 0.95
    """Semantic: the smallest cosine similarity of two questions that counts as the same."""
    embeddings: str = ""
    """Semantic: the alias whose model turns questions into vectors."""
    generation: int = 0
    """Raised to forget everything that is kept."""


@dataclass(frozen=True, slots=True)
class HedgeRule:
    """That a second target is asked when the first is slow to say its first token."""

    max_pico_usd: int
    """The second attempt must not be expected to cost more; 0: no hedging."""
    after_s: float | None = None
    """None: the observed 95th percentile of the time to first token of the first target."""


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """That a share of the requests is also asked of another alias, whose answers nobody gets."""

    alias: str
    share: float
    """Of 1."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How a deployment is asked from time to time whether it is well."""

    path: str = "/models"
    """Below the provider's base URL."""
    interval_s: float = 10.0
    timeout_s: float = 5.0
    unhealthy_after: int = 3
    """Failures in a row that take it out."""
    healthy_after: int = 2
    """Successes in a row that put it back."""


@dataclass(frozen=True, slots=True)
class CircuitRules:
    """When a deployment that fails is left alone for a while."""

    mode: str = "enforce"
    """`enforce`, `log` (noted, nothing is left out) or `off`."""
    failures: int = 5
    """Within `window_s`, that open a circuit."""
    window_s: float = 120.0
    open_s: float = 30.0
    """Then one request tries whether it is well again."""
    wait_s: float = 2.0
    """How long a request waits at most for a target when all are out."""


@dataclass(frozen=True, slots=True)
class LoadRules:
    """How much a worker takes on at once."""

    max_in_flight: int = 2_000
    """0: any number."""
    max_queued: int = 1_000
    """Requests that wait for their turn; beyond it they are refused at once."""
    queue_wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Of all caches together."""

    enabled: bool = False
    """The one switch: False, and nothing is looked up or kept."""
    ttl_s: float = 300.0
    """For requests that ask for a cache of their own accord where the alias names no time."""
    max_mb: int = 64
    """In memory, per worker."""
    generation: int = 0

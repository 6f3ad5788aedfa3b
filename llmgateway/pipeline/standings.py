"""How deployments are doing, in words: for the admin, `/health`, metrics, and the workers that share it."""

from __future__ import annotations

import hashlib

import msgspec

from llmgateway.pipeline.circuits import Opening, Tally
from llmgateway.pipeline.snapshot import Deployment

STATES = ("healthy", "open", "half_open", "unhealthy", "draining")
"""What a deployment can be: `open` and `half_open` are its circuit's, `unhealthy` is what probes have found."""


class ProbeStanding(msgspec.Struct, frozen=True):
    """What probes have found."""

    healthy: bool
    """By both thresholds, not by the last answer alone."""
    at: float
    """Of the last probe, in seconds since the epoch."""
    latency_ms: float
    detail: str
    """What the last one brought, in a few words: `status 200`, `no answer in time`."""
    changed_at: float
    """When it became healthy or unhealthy."""
    back_at: float = 0.0
    """Unhealthy: the soonest that probes can put it back."""


class Standing(msgspec.Struct, frozen=True):
    """How one deployment is doing, as this worker knows it."""

    state: str
    """One of `STATES`."""
    kind: str = ""
    """Of its latest failure, in one word."""
    failures: int = 0
    """Within the window, as far as this worker has seen them."""
    retry_at: float | None = None
    """When it is tried again, in seconds since the epoch; None: it is not left alone, or nobody can say."""
    opens: int = 0
    """How often this worker has opened its circuit."""
    probe: ProbeStanding | None = None
    enforced: bool = True
    """False: it is noted, and requests are sent there all the same."""

    @property
    def out(self) -> bool:
        """Nothing is sent there now, or would be were it enforced."""
        return self.state != "healthy"


WELL = Standing("healthy")
"""Of which nothing else is known, as of nearly all."""


class SharedCircuit(msgspec.Struct, frozen=True):
    """A circuit as workers tell it to one another."""

    mark: str
    """Which address and credential it was about."""
    changed_at: float
    """The latest is right."""
    kind: str
    opening: Opening | None


class SharedTally(msgspec.Struct, frozen=True):
    """What one worker has seen of a deployment, as it tells it to the others."""

    mark: str
    tally: Tally


class SharedProbe(msgspec.Struct, frozen=True):
    """A finding of probes as workers tell it to one another."""

    mark: str
    standing: ProbeStanding


def mark_of(deployment: Deployment) -> str:
    """Changes whenever what is known of a deployment's health says nothing any more: another address or credential.

    The same in all workers, and tells nothing of a secret.
    """
    known = hashlib.sha256()
    for part in (
        deployment.adapter.name, deployment.base_url, deployment.model, type(deployment.signer).__name__,
        deployment.health_generation, *deployment.headers,
    ):  # fmt: skip
        known.update(repr(part).encode())
    return known.hexdigest()[:16]

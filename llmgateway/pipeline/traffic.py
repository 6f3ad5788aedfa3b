"""How busy and how quick each deployment is, as this process sees it. Nothing of it is shared or kept."""

from __future__ import annotations

from array import array

from llmgateway.pipeline.snapshot import Deployment

NEWEST_SHARE = 0.2
"""How much a new sample counts in the running mean: after five of them, two thirds of it are theirs."""
FAILURE_S = 30.0
"""A failed attempt counts as a first token after so long: slower than nearly every target that is well."""
WINDOW = 256
"""The last so many times to first token make the percentiles."""
FEWEST = 20
"""Below so many samples a percentile would be chance."""
_RECKONED_EVERY = 16
"""Samples between two looks at the whole window: a percentile moves slowly."""


class _Flow:
    """What is known of one deployment."""

    __slots__ = ("in_flight", "latency_s", "moment", "percentiles", "recent", "samples")

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency_s: float | None = None
        self.moment = 0
        """When the last sample came, in samples of all deployments."""
        self.samples = 0
        """Times to first token so far; those of failures are none."""
        self.recent = array("d")
        """The last `WINDOW` of them, in no order that counts."""
        self.percentiles: tuple[int, list[float]] = (0, [])
        """At which sample the window was last sorted, and what came of it."""


class Traffic:
    """Counts for each deployment what runs, and how long its first tokens take. Used from the event loop alone.

    Whoever calls `began` calls `ended` exactly once, when the last byte is there or the attempt is given up.
    """

    def __init__(self) -> None:
        self._flows: dict[int, _Flow] = {}
        self._moment = 0

    def began(self, deployment: Deployment) -> None:
        self._flow(deployment).in_flight += 1

    def ended(self, deployment: Deployment) -> None:
        self._flow(deployment).in_flight -= 1

    def first_token(self, deployment: Deployment, seconds: float) -> None:
        """An attempt has brought the first piece of its answer after `seconds`."""
        flow = self._flow(deployment)
        self._learn(flow, seconds)
        if len(flow.recent) < WINDOW:
            flow.recent.append(seconds)
        else:
            flow.recent[flow.samples % WINDOW] = seconds
        flow.samples += 1

    def failed(self, deployment: Deployment) -> None:
        """An attempt has brought no answer, and that was not the caller's fault."""
        self._learn(self._flow(deployment), FAILURE_S)

    def in_flight(self, deployment_id: int) -> int:
        """Attempts that run now, to the end of their streams."""
        flow = self._flows.get(deployment_id)
        return 0 if flow is None else flow.in_flight

    def latency_s(self, deployment_id: int) -> float | None:
        """The running mean of the time to first token, failures included as slow; None: nothing is known."""
        flow = self._flows.get(deployment_id)
        return None if flow is None else flow.latency_s

    def moment(self, deployment_id: int) -> int:
        """Grows with every sample of any deployment: whose is smallest was measured longest ago."""
        flow = self._flows.get(deployment_id)
        return 0 if flow is None else flow.moment

    def percentile_s(self, deployment_id: int, share: float) -> float | None:
        """The time to first token that `share` of the recent answers did not exceed; None: too few to tell."""
        flow = self._flows.get(deployment_id)
        if flow is None or flow.samples < FEWEST:
            return None
        since, found = flow.percentiles
        if not found or flow.samples - since >= _RECKONED_EVERY:
            found = sorted(flow.recent)
            flow.percentiles = flow.samples, found
        return found[min(len(found) - 1, int(share * len(found)))]

    def _learn(self, flow: _Flow, seconds: float) -> None:
        known = flow.latency_s
        flow.latency_s = seconds if known is None else known + NEWEST_SHARE * (seconds - known)
        self._moment += 1
        flow.moment = self._moment

    def _flow(self, deployment: Deployment) -> _Flow:
        flow = self._flows.get(deployment.id)
        if flow is None:
            flow = self._flows[deployment.id] = _Flow()
        return flow

"""Which deployments are sent requests, as traffic, probes and people have it. Asked for every request, so it is cheap.

`circuits` decides when a deployment is left alone and `probes` asks whether it is well. Whoever shares this among
workers (`Sharing`) does so in the background: decisions are made on what this worker knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from llmgateway.pipeline.circuits import Circuit, CircuitState
from llmgateway.pipeline.errors import NoTargetAvailableError
from llmgateway.pipeline.protocols import Clock
from llmgateway.pipeline.route_rules import CircuitRules
from llmgateway.pipeline.sharing import Alone, Sharing
from llmgateway.pipeline.snapshot import Deployment, Snapshot
from llmgateway.pipeline.standings import (
    WELL,
    ProbeStanding,
    SharedCircuit,
    SharedProbe,
    SharedTally,
    Standing,
    mark_of,
)
from providers.adapters.types import ErrorKind

logger = logging.getLogger(__name__)

DOWN_AFTER = 5
"""Failures in a row after which a provider counts as down."""
TRIAL_GRACE_S = 5.0
"""A request that tries a half-open circuit is heard of within its deployment's total time, and this."""
RETRY_AFTER_S = 5
"""What clients are told when nobody can say when a target comes back."""
DEGRADED_MARKER = "[LLM_PROXY_PROVIDER_DEGRADED]"

_BLAMES_REQUEST = frozenset(
    {ErrorKind.INVALID_REQUEST, ErrorKind.CONTEXT_TOO_LONG, ErrorKind.CONTENT_POLICY, "inexpressible"}
    | {ErrorKind.EXCEEDS_LIMIT}
)
"""Kinds that say nothing of the deployment."""
_BLAMES_CREDENTIAL = frozenset(
    {ErrorKind.AUTHENTICATION, ErrorKind.PERMISSION_DENIED, ErrorKind.QUOTA_EXHAUSTED, ErrorKind.RATE_LIMITED}
)

_trials: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar("trials", default=frozenset())
"""Those that this request has begun. Others that began before a circuit opened end while it is tried."""
_serials = itertools.count(1)


class Health:
    """One per process, used from the event loop alone. Configuration comes by `use`.

    An attempt begins with `claim` and ends with `record`, or with `release` when it says nothing of the deployment.

    Example:
        for deployment in health.usable(candidates):
            if health.claim(deployment):
                result = await ask(deployment)
                health.record(deployment, ok=result.ok, kind=result.kind)
    """

    def __init__(self, clock: Clock) -> None:
        self.sharing: Sharing = Alone()
        self.opens: Counter[int] = Counter()
        """How often circuits were opened here, by deployment."""
        self._clock = clock
        self._rules = CircuitRules()
        self._used: tuple[Deployment, ...] = ()
        """Of the snapshot that holds. Most changes of configuration leave them as they are."""
        self._known: dict[int, Deployment] = {}
        self._marks: dict[int, str] = {}
        self._circuits: dict[int, Circuit] = {}
        self._probes: dict[int, ProbeStanding] = {}
        self.troubled: set[int] = set()
        """Deployments that requests may not be sent to without a closer look. Empty nearly always."""
        self._streaks: dict[str, int] = {}
        """Failures in a row, by provider."""
        self._trials: dict[int, int] = {}
        """The number of the trial that runs, by deployment."""
        self._waiting: set[asyncio.Future[None]] = set()

    # Configuration.

    def use(self, snapshot: Snapshot) -> None:
        """From now on `snapshot` holds. What is known of a deployment stays, unless its address or credential changed."""
        if snapshot.deployments and snapshot.deployments is self._used and snapshot.circuit == self._rules:
            return
        self._rules, self._used = snapshot.circuit, snapshot.deployments
        known = {deployment.id: deployment for deployment in _deployments(snapshot)}
        for number in self._known.keys() - known.keys():
            self._forget(number)
            self._marks.pop(number, None)
        for number, deployment in known.items():
            if self._known.get(number) is not deployment:
                self._meet(number, deployment)
        self._known = known
        if self._rules.mode == "off":
            self._circuits.clear()
        self.troubled = {number for number in known if self._is_troubled(number)}
        self._wake()

    def _meet(self, number: int, deployment: Deployment) -> None:
        mark = mark_of(deployment)
        if self._marks.get(number, mark) != mark:
            self._forget(number)
        self._marks[number] = mark
        if deployment.probe is None:
            self._probes.pop(number, None)

    def _forget(self, number: int) -> None:
        self._circuits.pop(number, None)
        self._probes.pop(number, None)
        self._end_trial(number)

    def _is_troubled(self, number: int) -> bool:
        deployment = self._known.get(number)
        if deployment is not None and deployment.draining:
            return True
        if self._rules.mode == "log":
            return False
        probe, circuit = self._probes.get(number), self._circuits.get(number)
        return (probe is not None and not probe.healthy) or (circuit is not None and circuit.opening is not None)

    def _note(self, number: int) -> None:
        """What is known of a deployment has changed."""
        if self._is_troubled(number):
            self.troubled.add(number)
        else:
            self.troubled.discard(number)
        self._wake()

    # For routing and attempts.

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        """Those that a request may be sent to now, in their order. `bypass` passes over circuits and probes."""
        troubled = self.troubled
        if not troubled:
            return candidates
        kept = tuple([each for each in candidates if each.id not in troubled or self._takes(each, bypass=bypass)])
        return candidates if len(kept) == len(candidates) else kept

    def claim(self, deployment: Deployment, *, bypass: bool = False) -> bool:
        """Begin an attempt. False: it may not begin; a half-open deployment takes one request at a time."""
        number = deployment.id
        if number not in self.troubled:
            return True
        if not self._takes(deployment, bypass=bypass):
            return False
        circuit = self._circuits.get(number)
        lease_s = deployment.timeouts.total_s + TRIAL_GRACE_S
        if circuit is not None and self.sharing.may_try(number) and circuit.try_once(self._clock.time(), lease_s):
            self._trials[number] = serial = next(_serials)
            _trials.set(_trials.get() | {serial})
            self.sharing.trial_began(number)
        return True

    def record(
        self, deployment: Deployment, *, ok: bool, kind: str | None = None, retry_after_s: float | None = None
    ) -> None:
        """The verdict of an attempt. `kind` is an `ErrorKind` or `FailureCause`, `retry_after_s` what a provider asks for."""
        if ok and kind is None:
            if self._streaks:
                self._streaks.pop(deployment.provider, None)
            circuit = self._circuits.get(deployment.id)
            if circuit is not None:
                self._succeeded(deployment, circuit)
        elif ok or kind in _BLAMES_REQUEST:
            self._streaks.pop(deployment.provider, None)
            self.release(deployment)
        elif kind in _BLAMES_CREDENTIAL and self._is_own_account(deployment):
            self.release(deployment)
        else:
            if kind != ErrorKind.PERMISSION_DENIED:  # That is between one request and the provider.
                self._streaks[deployment.provider] = self._streaks.get(deployment.provider, 0) + 1
            self._failed(deployment, kind or "failed", retry_after_s)

    def release(self, deployment: Deployment) -> None:
        """An attempt has ended and says nothing of the deployment: its caller left, or asked for what cannot be."""
        if self._trials and self._is_own_trial(deployment.id):
            self._end_trial(deployment.id)
            self._wake()

    async def wait_for_any(self, candidates: Sequence[Deployment], timeout_s: float) -> bool:
        """Wait until one of them may be sent a request. False: none in time, said as soon as that is known.

        Whoever asks has nobody else: one of them that has failed again and again is tried before its time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not any(each.id not in self.troubled or self._takes(each, bypass=False) for each in candidates):
            if self._hurry(candidates):
                continue
            left_s, due_s = deadline - loop.time(), self._due_s(candidates)
            if left_s <= 0 or not due_s or min(due_s) > left_s:
                return False
            await self._change(min([left_s, *(each for each in due_s if each > 0)]))
        return True

    def next_trial(self, candidates: Sequence[Deployment], timeout_s: float) -> tuple[Deployment, float] | None:
        """Whom a request would be sent to that has nobody else and waits so long, and after how many seconds.

        Nothing is changed. None: nobody, or nobody can say, for another request is trying one of them.
        """
        now, due_s = self._clock.time(), self._due_s(candidates)
        wait_s = max(0.0, min(due_s, default=math.inf))
        if wait_s > timeout_s:
            return None
        deployment = self._least_bad(candidates, now=now, by=now + wait_s)
        return None if deployment is None else (deployment, wait_s)

    def back_in_s(self, candidates: Sequence[Deployment]) -> float | None:
        """Seconds until the first of them may be tried again; 0: one is being tried. None: nobody can say."""
        due_s = self._due_s(candidates)
        return max(0.0, min(due_s)) if due_s else None

    def refusal(self, alias: str, candidates: Sequence[Deployment]) -> NoTargetAvailableError:
        """What callers are told when all targets are out."""
        back_in_s = self.back_in_s(candidates)
        seconds = RETRY_AFTER_S if back_in_s is None else max(1, math.ceil(back_in_s))
        return NoTargetAvailableError(
            f"{DEGRADED_MARKER} All deployments of the model '{alias}' are out at present. "
            f"Try again in {seconds} s, or call another model.",
            headers=(
                (b"retry-after", b"%d" % seconds),
                (b"x-gateway-degraded", b"true"),
                (b"x-llm-proxy-error-class", b"provider_degraded"),
            ),
        )

    # What is known, for people.

    def state_of(self, deployment: Deployment) -> Standing:
        """How a deployment is doing."""
        number, now = deployment.id, self._clock.time()
        circuit, probe = self._circuits.get(number), self._probes.get(number)
        if circuit is None and probe is None and not deployment.draining and number not in self.opens:
            return WELL
        state, retry_at = "healthy", None
        if deployment.draining:
            state = "draining"
        elif probe is not None and not probe.healthy:
            state, retry_at = "unhealthy", probe.back_at or None
        elif circuit is not None and circuit.opening is not None and circuit.state(now) is not CircuitState.CLOSED:
            state, retry_at = circuit.state(now).value, circuit.opening.until
        return Standing(
            state,
            kind="" if circuit is None else circuit.kind,
            failures=0 if circuit is None else circuit.failures_in_window(self._rules, now),
            retry_at=retry_at,
            opens=self.opens[number],
            probe=probe,
            enforced=deployment.draining or self._rules.mode != "log",
        )

    def standings(self) -> Iterator[tuple[Deployment, Standing]]:
        """Of all deployments."""
        for deployment in list(self._known.values()):  # Whoever looks may take pauses.
            yield deployment, self.state_of(deployment)

    def state(self, provider: str) -> str:
        """`healthy`, `degraded` or `down`: all of its deployments are out, or nothing but failures lately."""
        failures = self._streaks.get(provider, 0)
        out = [self.state_of(each).out for each in self._known.values() if each.provider == provider]
        if failures >= DOWN_AFTER or (out and all(out)):
            return "down"
        return "degraded" if failures or any(out) else "healthy"

    # For probes and for other workers.

    def probed(self, deployment: Deployment, standing: ProbeStanding) -> None:
        """What probes of this worker have found."""
        self._find(deployment, standing)
        self.sharing.changed(deployment.id)

    def _find(self, deployment: Deployment, standing: ProbeStanding) -> None:
        number = deployment.id
        before = self._probes.get(number)
        if self._known.get(number, deployment).probe is None:
            return
        self._probes[number] = standing
        if before is None or before.healthy != standing.healthy:
            if before is not None or not standing.healthy:
                logger.warning(
                    "deployment %s: probes find it %s (%s)",
                    deployment.name,
                    "well again" if standing.healthy else "unhealthy",
                    standing.detail,
                )
            self._note(number)

    def shared_circuit(self, number: int) -> SharedCircuit | None:
        """What other workers should know of a circuit; None: it has never been open."""
        circuit, mark = self._circuits.get(number), self._marks.get(number)
        if circuit is None or mark is None or not circuit.changed_at:
            return None
        return SharedCircuit(mark, circuit.changed_at, circuit.kind, circuit.opening)

    def shared_probe(self, number: int) -> SharedProbe | None:
        """What other workers should know of what probes have found."""
        probe, mark = self._probes.get(number), self._marks.get(number)
        return None if probe is None or mark is None else SharedProbe(mark, probe)

    def shared_numbers(self) -> set[int]:
        """Deployments of which there is anything to tell."""
        return self._circuits.keys() | self._probes.keys()

    def take_circuit(self, number: int, told: SharedCircuit) -> None:
        """Another worker has opened or closed a circuit; what is older than what is known here is nothing new."""
        if self._rules.mode == "off" or told.mark != self._marks.get(number):
            return
        circuit = self._circuits.get(number)
        if circuit is None:
            if told.opening is None:
                return
            circuit = self._circuits[number] = Circuit()
        if told.changed_at > circuit.changed_at:
            self._end_trial(number)
            circuit.take_over(told.opening, told.changed_at, told.kind)
            self._note(number)

    def shared_tally(self, number: int) -> SharedTally | None:
        """What other workers should know of failures that have opened nothing yet."""
        circuit, mark = self._circuits.get(number), self._marks.get(number)
        if circuit is None or mark is None or circuit.opening is not None:
            return None
        return SharedTally(mark, circuit.tally(self._rules, self._clock.time()))

    def take_tally(self, number: int, worker: str, told: SharedTally) -> None:
        """Another worker has seen failures, or answers after them."""
        deployment, now = self._known.get(number), self._clock.time()
        is_over = told.tally.at <= now - self._rules.window_s
        if self._rules.mode == "off" or deployment is None or is_over or told.mark != self._marks.get(number):
            return
        circuit = self._circuits.setdefault(number, Circuit())
        if circuit.take_tally(worker, told.tally, self._rules, now):
            self._opened(deployment, circuit, now)
            self._note(number)

    def take_probe(self, number: int, told: SharedProbe) -> None:
        """Another worker has probed."""
        known, deployment = self._probes.get(number), self._known.get(number)
        if deployment is None or told.mark != self._marks.get(number):
            return
        if known is None or told.standing.at > known.at:
            self._find(deployment, told.standing)

    def wake(self) -> None:
        """Let those who wait look again: this worker may try a deployment now."""
        self._wake()

    # Inside.

    def _takes(self, deployment: Deployment, *, bypass: bool) -> bool:
        """Whether a troubled deployment may be sent a request now."""
        number = deployment.id
        if self._known.get(number, deployment).draining:
            return False
        if bypass:
            return True
        probe, circuit = self._probes.get(number), self._circuits.get(number)
        if probe is not None and not probe.healthy:
            return False
        if circuit is None or circuit.opening is None:
            return True
        now = self._clock.time()
        state = circuit.state(now)
        if state is CircuitState.CLOSED:
            circuit.expire(now)
            self._note(number)
            return True
        if state is CircuitState.OPEN or circuit.is_trying(now):
            return False
        return self.sharing.may_try(number)

    def _due_s(self, candidates: Sequence[Deployment]) -> list[float]:
        """Seconds until each may be tried again, as all of them are out; without those that only people can put back."""
        now = self._clock.time()
        return [back_at - now for each in candidates if (back_at := self._back_at(each)) is not None]

    def _back_at(self, deployment: Deployment) -> float | None:
        number = deployment.id
        if self._known.get(number, deployment).draining:
            return None
        probe, circuit = self._probes.get(number), self._circuits.get(number)
        back_at = 0.0 if circuit is None else circuit.back_at(self._rules, badly_needed=True)
        return max(back_at, probe.back_at) if probe is not None and not probe.healthy else back_at

    def _hurry(self, candidates: Sequence[Deployment]) -> bool:
        """Let the least bad of them be tried, all of which are out, if its first pause is over and no other is tried.

        Pauses grow so that nobody is kept waiting by what fails again and again. Without anybody else there is nothing to spare.
        """
        now = self._clock.time()
        deployment = self._least_bad(candidates, now=now, by=now)
        if deployment is None:
            return False
        logger.info("deployment %s: is tried before its time, for nobody else is left to ask", deployment.name)
        self._circuits[deployment.id].hurry(now)
        return True

    def _least_bad(self, candidates: Sequence[Deployment], *, now: float, by: float) -> Deployment | None:
        """Whom to try of those whose first pause is over `by` then; None: nobody, or one is back or being tried."""
        ripe = list[tuple[bool, float, Deployment]]()
        for each in candidates:
            probe, circuit = self._probes.get(each.id), self._circuits.get(each.id)
            is_ill = self._known.get(each.id, each).draining or (probe is not None and not probe.healthy)
            if is_ill or circuit is None or circuit.opening is None:
                continue
            if circuit.opening.until <= now:
                return None
            if circuit.back_at(self._rules, badly_needed=True) <= by:
                ripe.append((circuit.blames_credential, circuit.opening.until, each))
        return min(ripe, key=lambda found: found[:2])[2] if ripe else None

    def _succeeded(self, deployment: Deployment, circuit: Circuit) -> None:
        number, now = deployment.id, self._clock.time()
        if circuit.state(now) is CircuitState.OPEN:
            return  # It was asked before the failures.
        self._end_trial(number)
        if circuit.succeed(self._rules, now):
            logger.warning("deployment %s: answers again, its circuit is closed", deployment.name)
            self.sharing.changed(number)
            self._note(number)
        elif circuit.is_idle(self._rules, now):
            del self._circuits[number]
        elif circuit.failures:
            self.sharing.counted(number)

    def _failed(self, deployment: Deployment, kind: str, retry_after_s: float | None) -> None:
        number, now, rules = deployment.id, self._clock.time(), self._rules
        if rules.mode == "off":
            return
        circuit = self._circuits.get(number)
        if circuit is None:
            circuit = self._circuits[number] = Circuit()
        own = self._is_own_trial(number)
        if circuit.state(now) is CircuitState.HALF_OPEN and rules.mode == "enforce" and not own:
            return  # It was asked before the circuit opened, or in spite of it.
        if own:
            self._end_trial(number)
        if circuit.fail(rules, now, kind, retry_after_s):
            self._opened(deployment, circuit, now)
        else:
            self.sharing.counted(number)
        self._note(number)

    def _opened(self, deployment: Deployment, circuit: Circuit, now: float) -> None:
        self.opens[deployment.id] += 1
        logger.warning(
            "deployment %s: its circuit is open for %.0f s (%s)%s",
            deployment.name,
            circuit.back_at(self._rules, badly_needed=False) - now,
            circuit.kind,
            "" if self._rules.mode == "enforce" else ", which is only noted",
        )
        self.sharing.changed(deployment.id)

    def _is_own_account(self, deployment: Deployment) -> bool:
        """Whether the caller's own key was refused, which says nothing of ours."""
        known = self._known.get(deployment.id)
        return known is not None and known.headers != deployment.headers

    def _is_own_trial(self, number: int) -> bool:
        serial = self._trials.get(number)
        return serial is not None and serial in _trials.get()

    def _end_trial(self, number: int) -> None:
        if self._trials.pop(number, None) is not None:
            if (circuit := self._circuits.get(number)) is not None:
                circuit.give_up_trial()
            self.sharing.trial_ended(number)

    async def _change(self, timeout_s: float) -> None:
        """Wait until anything about any deployment has changed, or so long."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(changed)
        try:
            await asyncio.wait((changed,), timeout=timeout_s)
        finally:
            self._waiting.discard(changed)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


def _deployments(snapshot: Snapshot) -> Sequence[Deployment]:
    """All of a snapshot, or of its aliases, if it says nothing else of them."""
    if snapshot.deployments:
        return snapshot.deployments
    return [deployment for alias in snapshot.aliases.values() for deployment in alias.deployments]

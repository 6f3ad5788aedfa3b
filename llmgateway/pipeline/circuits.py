"""One deployment's circuit: closed while it works, open while it is left alone, half-open while one request tries it.

Pure: it is told the time, and knows nothing of workers, probes and requests.
"""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from llmgateway.pipeline.route_rules import CircuitRules
from providers.adapters.types import ErrorKind

LONGEST_OPEN_S = 300.0
"""An open circuit is tried again at least this often, unless operators want it left alone for longer."""
LATEST = 2
"""How many of the latest verdicts count, as a multiple of the failures that open a circuit: at least half of them must
be failures. Without it a busy deployment would be left alone for one failure in ten thousand."""

_OPENS_AT_ONCE = frozenset({ErrorKind.AUTHENTICATION, ErrorKind.QUOTA_EXHAUSTED})
"""What no other request can fare better with: the credential is refused."""
_OF_CREDENTIAL = _OPENS_AT_ONCE | {ErrorKind.PERMISSION_DENIED}


class CircuitState(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Opening(msgspec.Struct, frozen=True):
    """That a circuit is open, and since when."""

    at: float
    """Seconds since the epoch, like all times here."""
    until: float
    """From then on it is half-open."""
    times: int
    """How often it has been opened since it was closed: each time for longer."""
    kind: str
    """Of the failure that opened it, in one word."""
    needs_trial: bool = True
    """False: the provider has said itself when to come back, so it closes then."""


class Tally(msgspec.Struct, frozen=True):
    """What one worker has seen of late, for the others."""

    at: float
    failures: tuple[float, ...]
    """When: the latest of the window, no more than open a circuit."""
    bad: int
    """Failures among the latest verdicts,"""
    verdicts: int
    """of which there are so many."""


class Circuit:
    """Failures and what follows from them. Times come from the caller."""

    __slots__ = ("_elsewhere", "_latest", "_refusals", "changed_at", "failures", "kind", "opening", "trial_until")

    def __init__(self) -> None:
        self.opening: Opening | None = None
        """None: closed."""
        self.failures: deque[float] = deque()
        """Those of the window, oldest first."""
        self.kind = ""
        """Of the latest failure."""
        self.changed_at = 0.0
        """When it was opened or closed."""
        self.trial_until = 0.0
        """Until then one request tries; 0: none does. One that was never heard of again must not close it for ever."""
        self._latest: deque[bool] = deque()
        self._refusals: deque[float] = deque()
        """Of the window, those of one request each: what it asked for is not permitted. None since it last worked."""
        self._elsewhere: dict[str, Tally] = {}
        """By other workers: failures count wherever they are seen."""

    def state(self, now: float) -> CircuitState:
        opening = self.opening
        if opening is None:
            return CircuitState.CLOSED
        if now < opening.until:
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN if opening.needs_trial else CircuitState.CLOSED

    def is_trying(self, now: float) -> bool:
        return now < self.trial_until

    def try_once(self, now: float, lease_s: float) -> bool:
        """Let one request through, if it is half-open and no other tries. It has `lease_s` to be heard of."""
        if self.state(now) is not CircuitState.HALF_OPEN or self.is_trying(now):
            return False
        self.trial_until = now + lease_s
        return True

    def back_at(self, rules: CircuitRules, *, badly_needed: bool) -> float:
        """When it may be tried. While nobody else can answer, no pause is longer than the first one."""
        opening = self.opening
        if opening is None:
            return 0.0
        if not badly_needed or not opening.needs_trial:
            return opening.until
        return min(opening.until, opening.at + rules.open_s)

    def hurry(self, now: float) -> None:
        """It is half-open from now on."""
        if self.opening is not None:
            self.opening = msgspec.structs.replace(self.opening, until=min(now, self.opening.until))

    @property
    def blames_credential(self) -> bool:
        """It is open because of our credential, which time does not mend."""
        return self.opening is not None and self.opening.kind in _OF_CREDENTIAL

    def give_up_trial(self) -> None:
        """The request that tried ended without a verdict."""
        self.trial_until = 0.0

    def fail(self, rules: CircuitRules, now: float, kind: str, retry_after_s: float | None = None) -> bool:
        """Note a failure. True: it has opened the circuit, or has opened it again."""
        self.kind = kind
        self.expire(now)
        if self.opening is not None:
            return self._fail_trial(self.opening, rules, now, kind, retry_after_s)
        if kind == ErrorKind.PERMISSION_DENIED:
            return self._refuse(rules, now, kind)
        self._note(rules, ok=False)
        self.failures.append(now)
        _forget_before(self.failures, now - rules.window_s)
        if (
            kind in _OPENS_AT_ONCE
            or (kind == ErrorKind.RATE_LIMITED and retry_after_s)
            or self._is_too_much(rules, now)
        ):
            self._open(rules, now, kind, retry_after_s, times=1)
            return True
        return False

    def _fail_trial(
        self, opening: Opening, rules: CircuitRules, now: float, kind: str, retry_after_s: float | None
    ) -> bool:
        if now < opening.until:
            return False
        if kind == ErrorKind.PERMISSION_DENIED and opening.kind not in _OF_CREDENTIAL:
            self.give_up_trial()  # It answers again, to whoever may ask.
            return False
        self._open(rules, now, kind, retry_after_s, times=opening.times + 1)
        return True

    def _refuse(self, rules: CircuitRules, now: float, kind: str) -> bool:
        """Only when nothing else comes any more, as often as failures must: what one caller may not have says nothing
        of what others ask for.
        """
        refusals = self._refusals
        refusals.append(now)
        _forget_before(refusals, now - rules.window_s)
        if len(refusals) < rules.failures:
            return False
        self._open(rules, now, kind, None, times=1)
        return True

    def succeed(self, rules: CircuitRules, now: float) -> bool:
        """Note that it works. True: that has closed the circuit."""
        self.expire(now)
        if self.opening is None:
            self._note(rules, ok=True)
            self._refusals.clear()
            _forget_before(self.failures, now - rules.window_s)
            return False
        self.close(now)
        return True

    def expire(self, now: float) -> None:
        """Close it, if nobody has to try it first."""
        if self.opening is not None and self.state(now) is CircuitState.CLOSED:
            self.close(self.opening.until)

    def close(self, now: float) -> None:
        self.opening = None
        self.trial_until = 0.0
        self.changed_at = now
        self.failures.clear()
        self._latest.clear()
        self._refusals.clear()
        self._elsewhere.clear()

    def take_over(self, opening: Opening | None, changed_at: float, kind: str) -> None:
        """Be as another worker says."""
        self.close(changed_at)
        self.opening, self.kind = opening, kind or self.kind

    def tally(self, rules: CircuitRules, now: float) -> Tally:
        """For other workers."""
        _forget_before(self.failures, now - rules.window_s)
        return Tally(now, tuple(self.failures)[-rules.failures :], self._latest.count(False), len(self._latest))

    def take_tally(self, worker: str, told: Tally, rules: CircuitRules, now: float) -> bool:
        """What another worker has seen. True: with what was seen here that is too much, and opens the circuit."""
        self._elsewhere[worker] = told
        if self.opening is not None or not self.failures or not self._is_too_much(rules, now):
            return False
        self._open(rules, now, self.kind, None, times=1)
        return True

    def is_idle(self, rules: CircuitRules, now: float) -> bool:
        """There is nothing to remember."""
        if self.failures or self.changed_at:
            return False
        return all(told.at <= now - rules.window_s for told in self._elsewhere.values())

    def failures_in_window(self, rules: CircuitRules, now: float) -> int:
        _forget_before(self.failures, now - rules.window_s)
        return len(self.failures) + len(self._refusals)

    def _open(self, rules: CircuitRules, now: float, kind: str, retry_after_s: float | None, *, times: int) -> None:
        longest = max(rules.open_s, LONGEST_OPEN_S)
        wait_s = rules.open_s * 2.0 ** min(times - 1, 20)
        told = retry_after_s if kind == ErrorKind.RATE_LIMITED else None
        self.opening = Opening(now, now + min(longest, told or wait_s), times, kind, needs_trial=not told)
        self.trial_until = 0.0
        self.changed_at = now

    def _note(self, rules: CircuitRules, *, ok: bool) -> None:
        self._latest.append(ok)
        while len(self._latest) > LATEST * rules.failures:
            self._latest.popleft()

    def _is_too_much(self, rules: CircuitRules, now: float) -> bool:
        """By what was seen here alone, or by all workers together."""
        failures, bad, verdicts = len(self.failures), self._latest.count(False), len(self._latest)
        if failures >= rules.failures and 2 * bad >= verdicts:
            return True
        since = max(now - rules.window_s, self.changed_at)
        for told in self._elsewhere.values():
            if told.at > since:
                failures += sum(moment > since for moment in told.failures)
                bad += told.bad
                verdicts += told.verdicts
        return failures >= rules.failures and 2 * bad >= verdicts


def _forget_before(times: deque[float], moment: float) -> None:
    while times and times[0] <= moment:
        times.popleft()

"""One circuit: when it opens, for how long, and who may try it."""

from __future__ import annotations

import contextvars

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from llmgateway.pipeline.circuits import LONGEST_OPEN_S, Circuit, CircuitState, Tally
from llmgateway.pipeline.health import Health
from llmgateway.pipeline.route_rules import CircuitRules
from tests.fakes import FakeClock
from tests.gateways import alias, deployment, snapshot

RULES = CircuitRules(failures=3, window_s=60, open_s=30)


def opened(*, at: float = 1000.0, rules: CircuitRules = RULES) -> Circuit:
    circuit = Circuit()
    for _ in range(rules.failures):
        circuit.fail(rules, at, "server_error")
    assert circuit.opening is not None
    return circuit


def test_it_opens_at_the_failure_that_is_one_too_many() -> None:
    circuit = Circuit()

    verdicts = [circuit.fail(RULES, 1000.0 + second, "server_error") for second in range(3)]

    assert verdicts == [False, False, True]
    assert circuit.state(1002.0) is CircuitState.OPEN


def test_failures_before_the_window_do_not_count() -> None:
    circuit = Circuit()
    for second in (0, 1, 60.5):
        assert not circuit.fail(RULES, 1000.0 + second, "server_error")

    assert circuit.failures_in_window(RULES, 1060.5) == 2
    assert circuit.fail(RULES, 1060.9, "server_error")


def test_a_few_failures_among_many_answers_open_nothing() -> None:
    circuit = Circuit()
    for _ in range(20):
        for _ in range(9):
            circuit.succeed(RULES, 1000.0)
        assert not circuit.fail(RULES, 1000.0, "server_error")


def test_failures_in_a_row_open_it_whatever_was_answered_before() -> None:
    circuit = Circuit()
    circuit.fail(RULES, 1000.0, "server_error")
    for _ in range(100):
        circuit.succeed(RULES, 1000.0)

    assert [circuit.fail(RULES, 1001.0, "server_error") for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("kind", ["authentication", "quota_exhausted"])
def test_a_refused_credential_opens_it_at_once(kind: str) -> None:
    circuit = Circuit()

    assert circuit.fail(RULES, 1000.0, kind)
    assert circuit.opening is not None
    assert (circuit.opening.kind, circuit.opening.until) == (kind, 1030.0)


def test_what_one_request_may_not_have_opens_nothing_while_others_are_answered() -> None:
    circuit = Circuit()
    for _ in range(20):
        assert not circuit.fail(RULES, 1000.0, "permission_denied")
        assert not circuit.fail(RULES, 1000.0, "permission_denied")
        circuit.succeed(RULES, 1000.0)

    assert circuit.state(1000.0) is CircuitState.CLOSED
    assert circuit.failures_in_window(RULES, 1000.0) == 0


def test_when_nothing_is_permitted_any_more_it_opens() -> None:
    circuit = Circuit()

    verdicts = [circuit.fail(RULES, 1000.0 + second, "permission_denied") for second in (0, 30, 61, 62)]

    assert verdicts == [False, False, False, True]
    assert circuit.opening is not None
    assert (circuit.opening.kind, circuit.opening.until) == ("permission_denied", 1092.0)


def test_what_is_not_permitted_is_no_failure_among_others() -> None:
    circuit = Circuit()
    circuit.fail(RULES, 1000.0, "permission_denied")
    circuit.fail(RULES, 1000.0, "permission_denied")

    assert [circuit.fail(RULES, 1000.0, "server_error") for _ in range(3)] == [False, False, True]


class TestTallies:
    """Of other workers."""

    def test_what_they_have_seen_counts_with_the_next_failure_here(self) -> None:
        one, two = Circuit(), Circuit()
        one.fail(RULES, 1000.0, "timeout")
        one.fail(RULES, 1001.0, "timeout")

        assert not two.take_tally("one", one.tally(RULES, 1001.0), RULES, 1001.0)
        assert two.fail(RULES, 1002.0, "server_error")

    def test_what_they_see_next_counts_with_the_failures_here(self) -> None:
        one, two = Circuit(), Circuit()
        two.fail(RULES, 1000.0, "server_error")
        one.fail(RULES, 1001.0, "timeout")
        assert not two.take_tally("one", one.tally(RULES, 1001.0), RULES, 1001.0)
        one.fail(RULES, 1002.0, "timeout")

        assert two.take_tally("one", one.tally(RULES, 1002.0), RULES, 1002.0)
        assert two.opening is not None
        assert (two.opening.until, two.opening.kind) == (1032.0, "server_error")

    def test_their_answers_count_too(self) -> None:
        one, two = Circuit(), Circuit()
        one.fail(RULES, 1000.0, "timeout")
        for _ in range(5):
            one.succeed(RULES, 1000.0)
        two.fail(RULES, 1000.0, "timeout")

        assert not two.take_tally("one", one.tally(RULES, 1000.0), RULES, 1000.0)
        assert not two.fail(RULES, 1000.0, "timeout")
        assert two.fail(RULES, 1000.0, "timeout")

    def test_what_is_from_before_the_window_or_the_last_closing_does_not_count(self) -> None:
        one, late, closed = Circuit(), Circuit(), Circuit()
        one.fail(RULES, 1000.0, "timeout")
        one.fail(RULES, 1000.0, "timeout")
        told = one.tally(RULES, 1000.0)
        late.take_tally("one", told, RULES, 1060.5)
        assert not late.fail(RULES, 1060.5, "timeout")
        assert not late.is_idle(RULES, 1060.5)

        closed.close(1001.0)
        closed.take_tally("one", told, RULES, 1002.0)
        assert not closed.fail(RULES, 1002.0, "timeout")

    def test_nothing_is_told_of_more_failures_than_matter(self) -> None:
        circuit = Circuit()
        for _ in range(50):
            circuit.succeed(RULES, 1000.0)
            circuit.succeed(RULES, 1000.0)
            circuit.fail(RULES, 1000.0, "timeout")

        assert circuit.tally(RULES, 1000.0) == Tally(1000.0, (1000.0,) * 3, 2, 6)

    def test_what_nobody_needs_to_remember_is_forgotten(self) -> None:
        one, two = Circuit(), Circuit()
        one.fail(RULES, 1000.0, "timeout")
        two.take_tally("one", one.tally(RULES, 1000.0), RULES, 1000.0)

        assert not two.is_idle(RULES, 1059.0)
        assert two.is_idle(RULES, 1060.0)


def test_a_trial_that_is_not_permitted_tells_nothing_of_a_server_that_failed() -> None:
    circuit = opened()
    assert circuit.try_once(1030.0, 60)

    assert not circuit.fail(RULES, 1030.0, "permission_denied")
    assert circuit.state(1030.0) is CircuitState.HALF_OPEN
    assert circuit.try_once(1030.0, 60)


def test_a_trial_that_is_still_not_permitted_opens_it_again() -> None:
    circuit = Circuit()
    for _ in range(3):
        circuit.fail(RULES, 1000.0, "permission_denied")
    assert circuit.try_once(1030.0, 60)

    assert circuit.fail(RULES, 1030.0, "permission_denied")
    assert circuit.state(1089.0) is CircuitState.OPEN


@pytest.mark.parametrize(("asked_s", "open_s"), [(7.0, 7.0), (86_400.0, LONGEST_OPEN_S)])
def test_a_rate_limit_opens_it_for_as_long_as_the_provider_asks(asked_s: float, open_s: float) -> None:
    circuit = Circuit()

    assert circuit.fail(RULES, 1000.0, "rate_limited", asked_s)
    assert circuit.opening is not None
    assert circuit.opening.until == 1000.0 + open_s
    assert circuit.state(1000.0 + open_s - 0.1) is CircuitState.OPEN
    assert circuit.state(1000.0 + open_s) is CircuitState.CLOSED  # Nobody has to try it: the provider said so.


def test_another_rate_limit_afterwards_opens_it_again() -> None:
    circuit = Circuit()
    circuit.fail(RULES, 1000.0, "rate_limited", 5.0)

    assert circuit.fail(RULES, 1006.0, "rate_limited", 7.0)
    assert circuit.opening is not None
    assert (circuit.opening.until, circuit.opening.times) == (1013.0, 1)


def test_a_rate_limit_without_a_time_is_a_failure_like_others() -> None:
    circuit = Circuit()

    assert [circuit.fail(RULES, 1000.0, "rate_limited") for _ in range(3)] == [False, False, True]


def test_after_its_time_one_request_tries() -> None:
    circuit = opened()

    assert not circuit.try_once(1029.9, 60)
    assert circuit.try_once(1030.0, 60)
    assert not circuit.try_once(1030.0, 60)


def test_a_trial_that_is_never_heard_of_makes_room_for_the_next() -> None:
    circuit = opened()
    assert circuit.try_once(1030.0, 60)

    assert not circuit.try_once(1089.9, 60)
    assert circuit.try_once(1090.0, 60)


def test_success_closes_it() -> None:
    circuit = opened()
    circuit.try_once(1030.0, 60)

    assert circuit.succeed(RULES, 1031.0)
    assert circuit.state(1031.0) is CircuitState.CLOSED
    assert circuit.failures_in_window(RULES, 1031.0) == 0


def test_each_failed_trial_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    circuit, waits = opened(), []
    for _ in range(6):
        assert circuit.opening is not None
        waits.append(circuit.opening.until - circuit.opening.at)
        circuit.try_once(circuit.opening.until, 60)
        assert circuit.fail(RULES, circuit.opening.until, "timeout")

    assert waits == [30, 60, 120, 240, LONGEST_OPEN_S, LONGEST_OPEN_S]


def test_operators_may_want_it_left_alone_for_longer_than_the_bound() -> None:
    rules = CircuitRules(failures=1, open_s=3600)
    circuit = opened(rules=rules)

    assert circuit.state(1000.0 + 3599) is CircuitState.OPEN


class Requests(RuleBasedStateMachine):
    """Requests to one deployment begin, end and vanish in any order while time passes."""

    circuit = CircuitRules(failures=3, window_s=60, open_s=30)

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.health = Health(self.clock)
        self.deployment = deployment()
        self.health.use(snapshot(alias("gpt", self.deployment), circuit=self.circuit))
        self.running: list[contextvars.Context] = []
        self.trial: contextvars.Context | None = None
        """The request among them that tries the half-open circuit."""
        self.failed_at: list[float] = []
        """Failures since it was last closed or opened."""

    @property
    def state(self) -> str:
        return self.health.state_of(self.deployment).state

    @rule()
    def begin(self) -> None:
        context, state = contextvars.Context(), self.state
        began = bool(self.health.usable((self.deployment,)))
        assert context.run(self.health.claim, self.deployment) == began
        if self.circuit.mode == "log":
            assert began
        else:
            assert began == (state == "healthy" or (state == "half_open" and self.trial is None))
            if state == "half_open" and began:
                self.trial = context
        if began:
            self.running.append(context)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 20), kind=st.sampled_from(["server_error", "timeout", "not_connected"]))
    def fail(self, which: int, kind: str) -> None:
        before = self.state
        context, tried = self.end(which)
        context.run(lambda: self.health.record(self.deployment, ok=False, kind=kind))
        if before == "healthy":
            self.failed_at.append(self.clock.time())
            recent = [at for at in self.failed_at if at > self.clock.time() - self.circuit.window_s]
            # All verdicts here are failures, so the share of them is no matter.
            assert (self.state == "open") == (len(recent) >= self.circuit.failures)
        elif before == "half_open":
            assert (self.state == "open") == (tried or self.circuit.mode == "log")
        else:
            assert self.state == "open"
        if self.state == "open":
            self.failed_at.clear()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 20), kind=st.sampled_from(["invalid_request", "context_too_long"]))
    def blame_the_request(self, which: int, kind: str) -> None:
        before = self.state
        context, _ = self.end(which)
        context.run(lambda: self.health.record(self.deployment, ok=False, kind=kind))
        assert self.state == before

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 20))
    def leave(self, which: int) -> None:
        before = self.state
        context, _ = self.end(which)
        context.run(self.health.release, self.deployment)
        assert self.state == before

    @precondition(lambda self: self.trial is not None)
    @rule()
    def work_again(self) -> None:
        assert self.trial is not None
        context, _ = self.end(self.running.index(self.trial))
        context.run(lambda: self.health.record(self.deployment, ok=True))
        assert self.state == "healthy"

    @rule(seconds=st.sampled_from([0.5, 10, 29, 30, 61, 120]))
    def pass_time(self, seconds: float) -> None:
        if self.trial is None:  # Trials are heard of long before their leases end.
            self.clock.advance(seconds)

    def end(self, which: int) -> tuple[contextvars.Context, bool]:
        """The request that ends, and whether it was the one that tried."""
        context = self.running.pop(which % len(self.running))
        tried = context is self.trial
        if tried:
            self.trial = None
        return context, tried


class NotedRequests(Requests):
    """The same where circuits are only noted: nothing is ever left out."""

    circuit = CircuitRules(mode="log", failures=3, window_s=60, open_s=30)


TestEnforced = Requests.TestCase
TestNoted = NotedRequests.TestCase

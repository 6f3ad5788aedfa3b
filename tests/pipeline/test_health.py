"""Which deployments are usable, who may claim them, and how long to wait when all are out."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.pipeline.health import Health
from llmgateway.pipeline.route_rules import CircuitRules, Probe
from llmgateway.pipeline.snapshot import Deployment, Snapshot
from llmgateway.pipeline.standings import ProbeStanding
from tests.fakes import FakeClock
from tests.gateways import alias, deployment, snapshot

A, B = deployment("a", 1), deployment("b", 2)
BOTH = (A, B)
RULES = CircuitRules(failures=2, open_s=30)


def health_of(*deployments: Deployment, clock: FakeClock | None = None, **circuit: Any) -> Health:
    health = Health(clock or FakeClock())
    health.use(of(*(deployments or BOTH), **circuit))
    return health


def of(*deployments: Deployment, **circuit: Any) -> Snapshot:
    rules = {"failures": 2, "open_s": 30.0, **circuit}
    return snapshot(alias("gpt", *deployments), deployments=deployments, circuit=CircuitRules(**rules))


def fail(health: Health, which: Deployment = A, times: int = 2, kind: str = "server_error") -> None:
    for _ in range(times):
        health.record(which, ok=False, kind=kind)


def probed(*, healthy: bool, at: float = 0.0, back_at: float = 0.0) -> ProbeStanding:
    return ProbeStanding(healthy, at, 12.0, "status 200" if healthy else "no answer in time", at, back_at)


def in_own_context(work: Any, *arguments: Any) -> Any:
    """As another request."""
    return contextvars.copy_context().run(work, *arguments)


def test_while_all_is_well_the_candidates_come_back_as_they_are() -> None:
    health = health_of()
    fail(health, times=1)

    assert health.usable(BOTH) is BOTH
    assert health.claim(A)


def test_an_open_circuit_leaves_its_deployment_out() -> None:
    health = health_of()
    fail(health)

    assert health.usable(BOTH) == (B,)
    assert not health.claim(A)
    assert health.usable((B,)) == (B,)


def test_a_circuit_is_of_one_model_at_one_provider() -> None:
    other = deployment("a-large", 3, provider=A.provider)
    health = health_of(A, other)
    fail(health)

    assert health.usable((A, other)) == (other,)


@pytest.mark.parametrize(
    "kind", ["invalid_request", "context_too_long", "content_policy", "request_exceeds_limit", "inexpressible"]
)
def test_what_callers_did_wrong_never_counts(kind: str) -> None:
    health = health_of()
    fail(health, times=50, kind=kind)

    assert health.usable(BOTH) is BOTH
    assert health.state(A.provider) == "healthy"


@pytest.mark.parametrize(
    "kind", ["server_error", "overloaded", "timeout", "not_connected", "connection_broken", "no_token"]
)
def test_what_providers_did_wrong_counts(kind: str) -> None:
    health = health_of()
    fail(health, kind=kind)

    assert health.state_of(A).state == "open"
    assert health.state_of(A).kind == kind


def test_a_callers_own_key_that_is_refused_says_nothing_of_ours() -> None:
    health = health_of()
    own = replace(A, headers=((b"authorization", b"Bearer theirs"),))
    health.record(own, ok=False, kind="authentication")
    health.record(own, ok=False, kind="rate_limited", retry_after_s=20)

    assert health.usable(BOTH) is BOTH
    health.record(A, ok=False, kind="authentication")
    assert health.usable(BOTH) == (B,)


def test_in_log_mode_it_is_noted_and_nothing_is_left_out() -> None:
    health = health_of(mode="log")
    fail(health)

    assert health.usable(BOTH) is BOTH
    assert health.claim(A)
    standing = health.state_of(A)
    assert (standing.state, standing.enforced, standing.opens) == ("open", False, 1)


def test_when_circuits_are_off_nothing_is_noted() -> None:
    health = health_of(mode="off")
    fail(health, times=50)

    assert health.usable(BOTH) is BOTH
    assert health.state_of(A).state == "healthy"


def test_switching_circuits_off_puts_everything_back() -> None:
    health = health_of()
    fail(health)
    health.use(of(*BOTH, mode="off"))

    assert health.usable(BOTH) is BOTH


def test_one_request_at_a_time_tries_a_half_open_circuit() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)

    assert health.usable(BOTH) == BOTH
    assert health.claim(A)
    assert health.usable(BOTH) == (B,)
    assert not health.claim(A)
    health.record(A, ok=True)
    assert health.usable(BOTH) is BOTH


def test_a_failed_trial_opens_it_again_for_longer() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)
    assert health.claim(A)
    health.record(A, ok=False, kind="timeout")

    clock.advance(59)
    assert not health.claim(A)
    clock.advance(1)
    assert health.claim(A)


def test_a_trial_whose_client_leaves_lets_the_next_one_try() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)
    assert health.claim(A)
    health.release(A)

    assert health.claim(A)


def test_late_failures_of_requests_from_before_do_not_end_a_trial() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)
    assert in_own_context(health.claim, A)

    in_own_context(lambda: health.record(A, ok=False, kind="timeout"))
    in_own_context(lambda: health.release(A))

    assert health.state_of(A).state == "half_open"
    assert not in_own_context(health.claim, A)


def test_a_late_answer_does_not_close_what_failures_have_opened_since() -> None:
    health = health_of()
    fail(health)
    health.record(A, ok=True)

    assert health.usable(BOTH) == (B,)


def test_a_drained_deployment_gets_nothing_even_past_circuits() -> None:
    health = health_of(replace(A, draining=True), B, mode="off")

    assert health.usable(BOTH) == (B,)
    assert health.usable(BOTH, bypass=True) == (B,)
    assert not health.claim(A)
    health.use(of(*BOTH))
    assert health.usable(BOTH) is BOTH


def test_who_may_pass_over_circuits_does() -> None:
    health = health_of(replace(A, probe=Probe()), B)
    fail(health)
    assert health.usable(BOTH, bypass=True) is BOTH
    assert health.claim(A, bypass=True)

    health.probed(A, probed(healthy=False))
    assert health.usable(BOTH, bypass=True) is BOTH


def test_only_probes_put_back_what_probes_took_out() -> None:
    health = health_of(replace(A, probe=Probe()), B)
    health.probed(A, probed(healthy=False))
    health.record(A, ok=True)
    assert health.usable(BOTH) == (B,)
    assert not health.claim(A)
    assert health.state_of(A).state == "unhealthy"

    health.probed(A, probed(healthy=True))
    assert health.usable(BOTH) is BOTH


def test_without_probes_their_last_word_is_forgotten() -> None:
    health = health_of(replace(A, probe=Probe()), B)
    health.probed(A, probed(healthy=False))
    health.use(of(*BOTH))

    assert health.usable(BOTH) is BOTH


@pytest.mark.parametrize("change", [{"timeouts": replace(A.timeouts, idle_s=7)}, {"name": "renamed"}])
def test_a_circuit_outlives_changes_that_do_not_matter_to_it(change: dict[str, Any]) -> None:
    health = health_of()
    fail(health)
    changed = replace(A, **change)
    health.use(of(changed, B))

    assert health.usable((changed, B)) == (B,)


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "http://elsewhere.test/v1"},
        {"headers": ((b"authorization", b"Bearer new"),)},
        {"health_generation": 1},
    ],
)
def test_another_address_or_credential_or_a_reset_begins_anew(change: dict[str, Any]) -> None:
    health = health_of()
    fail(health)
    health.use(of(replace(A, **change), B))

    assert health.usable(BOTH) is BOTH


def test_a_deployment_that_is_gone_is_forgotten() -> None:
    health = health_of()
    fail(health)
    health.use(of(B))
    health.use(of(*BOTH))

    assert health.usable(BOTH) is BOTH


def test_a_provider_is_down_when_all_its_deployments_are() -> None:
    small, large = deployment("small", 1, provider="acme"), deployment("large", 2, provider="acme")
    health = health_of(small, large)
    assert health.state("acme") == "healthy"

    fail(health, small)
    health.record(large, ok=True)
    assert health.state("acme") == "degraded"
    fail(health, large)
    assert health.state("acme") == "down"


async def test_waiting_ends_when_a_target_is_back() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    fail(health, B)
    clock.advance(30)
    assert health.claim(A)
    assert health.claim(B)

    waiting = asyncio.create_task(health.wait_for_any(BOTH, 30))
    await asyncio.sleep(0)
    assert not waiting.done()
    health.record(B, ok=True)
    assert await waiting


async def test_nobody_waits_for_what_does_not_come_in_time() -> None:
    health = health_of()
    fail(health)

    assert not await asyncio.wait_for(health.wait_for_any((A,), 10), 0.5)


async def test_waiting_is_bounded() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)
    assert health.claim(A)

    assert not await asyncio.wait_for(health.wait_for_any((A,), 0.02), 1)


async def test_waiting_ends_by_itself_when_a_circuit_is_half_open() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(29.97)
    asyncio.get_running_loop().call_later(0.01, clock.advance, 0.03)

    assert await asyncio.wait_for(health.wait_for_any((A,), 1), 2)


async def test_while_one_is_tried_the_next_is_not_overlooked() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(29.97)
    fail(health, B)
    clock.advance(0.03)
    assert in_own_context(health.claim, A)
    clock.advance(29.95)
    asyncio.get_running_loop().call_later(0.01, clock.advance, 0.05)

    assert await asyncio.wait_for(health.wait_for_any(BOTH, 30), 0.5)
    assert health.usable(BOTH) == (B,)


class TestNobodyElse:
    """All are out, and one of them has failed so often that its turn is long in coming."""

    def failed_twice(self, clock: FakeClock) -> Health:
        health = health_of(clock=clock)
        fail(health)
        clock.advance(30)
        assert in_own_context(self.try_in_vain, health)
        return health

    def try_in_vain(self, health: Health, which: Deployment = A, kind: str = "timeout") -> bool:
        claimed = health.claim(which)
        health.record(which, ok=False, kind=kind)
        return claimed

    async def test_one_request_tries_it_before_its_time(self) -> None:
        clock = FakeClock()
        health = self.failed_twice(clock)
        clock.advance(29)
        assert health.back_in_s((A,)) == 1
        assert not await health.wait_for_any((A,), 0)
        clock.advance(1)

        assert await health.wait_for_any((A,), 0)

        assert in_own_context(health.claim, A)
        assert not await health.wait_for_any((A,), 0)
        assert not in_own_context(health.claim, A)

    async def test_it_is_tried_no_oftener_than_after_its_first_pause(self) -> None:
        clock = FakeClock()
        health = self.failed_twice(clock)
        for _ in range(3):
            clock.advance(30)
            assert await health.wait_for_any((A,), 0)
            assert in_own_context(self.try_in_vain, health)
            assert not await health.wait_for_any((A,), 0)

    async def test_while_another_answers_it_is_left_alone_for_all_of_its_time(self) -> None:
        clock = FakeClock()
        health = self.failed_twice(clock)
        clock.advance(30)

        assert await health.wait_for_any(BOTH, 0)
        assert health.usable(BOTH) == (B,)

    @pytest.mark.parametrize("kind", ["authentication", "quota_exhausted"])
    async def test_what_only_failed_comes_before_what_refuses_our_credential(self, kind: str) -> None:
        clock = FakeClock()
        health = self.failed_twice(clock)  # A until 60 s from now.
        clock.advance(25)
        fail(health, B, kind=kind)
        clock.advance(30)
        in_own_context(self.try_in_vain, health, B, kind)  # B for 60 s,
        clock.advance(5)
        in_own_context(self.try_in_vain, health)  # and A for 120 s.
        clock.advance(35)

        assert await health.wait_for_any(BOTH, 0)
        assert health.usable(BOTH) == (A,)

    async def test_who_asked_for_time_has_it(self) -> None:
        clock = FakeClock()
        health = health_of(A, clock=clock)
        health.record(A, ok=False, kind="rate_limited", retry_after_s=100)
        clock.advance(40)

        assert not await health.wait_for_any((A,), 0)
        assert health.back_in_s((A,)) == 60

    async def test_what_probes_or_people_took_out_is_not_tried(self) -> None:
        clock = FakeClock()
        health = self.failed_twice(clock)
        clock.advance(30)
        health.use(of(replace(A, draining=True), B))
        assert not await health.wait_for_any((A,), 0)

        health.use(of(replace(A, probe=Probe()), B))
        health.probed(A, probed(healthy=False, back_at=clock.time() + 10))
        assert not await health.wait_for_any((A,), 0)


async def test_who_leaves_does_not_wait_on() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(30)
    health.claim(A)
    waiting = asyncio.create_task(health.wait_for_any((A,), 30))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not health._waiting


def test_the_refusal_says_when_the_first_target_is_tried_again() -> None:
    clock = FakeClock()
    health = health_of(clock=clock)
    fail(health)
    clock.advance(10.5)
    fail(health, B)

    error = health.refusal("gpt", BOTH)

    assert (error.status, error.type, error.code) == (503, "server_error", "no_healthy_target")
    assert error.message.startswith("[LLM_PROXY_PROVIDER_DEGRADED] ")
    assert dict(error.headers) == {
        b"retry-after": b"20",
        b"x-gateway-degraded": b"true",
        b"x-llm-proxy-error-class": b"provider_degraded",
    }


def test_the_refusal_of_drained_targets_promises_nothing() -> None:
    health = health_of(replace(A, draining=True))

    assert health.back_in_s((A,)) is None
    assert dict(health.refusal("gpt", (A,)).headers)[b"retry-after"] == b"5"

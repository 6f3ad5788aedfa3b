"""Probes: both thresholds, what they ask, and that they go on whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline.health import Health
from llmgateway.pipeline.probes import Leases, Probes
from llmgateway.pipeline.route_rules import CircuitRules, Probe
from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.upstream import FailureCause, Upstream, UpstreamError
from tests.fakes import FakeClock, Reply, ScriptedUpstream
from tests.gateways import deployment, snapshot

PROBE = Probe(path="/models", interval_s=0.001, timeout_s=0.05, unhealthy_after=3, healthy_after=2)
TARGET = deployment("a", 1, probe=PROBE)


class Answers:
    """Answers with its script, and then with the last of it for ever."""

    def __init__(self, *script: int | Exception) -> None:
        self.script = list(script)
        self.asked = 0
        self.states: list[str] = []
        self.health: Health | None = None

    async def probe(self, deployment: Deployment, path: str) -> int:
        if self.health is not None:
            self.states.append(self.health.state_of(deployment).state)
        answer = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


class Hangs:
    async def probe(self, deployment: Deployment, path: str) -> int:
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits for so long")


@asynccontextmanager
async def probing(
    upstream: Answers | Hangs, *deployments: Deployment, leases: Leases | None = None, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Health, Probes]]:
    health = Health(clock or FakeClock())
    if isinstance(upstream, Answers):
        upstream.health = health
    probes = Probes(health, upstream, FakeClock(), leases)
    picture = snapshot(deployments=deployments or (TARGET,), circuit=CircuitRules())
    health.use(picture)
    probes.use(picture)
    try:
        yield health, probes
    finally:
        await probes.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # Of states there is no event.
            await asyncio.sleep(0.001)


async def test_so_many_failures_in_a_row_take_it_out_and_so_many_successes_put_it_back() -> None:
    upstream = Answers(200, 503, 503, 200, 503, 503, 503, 200, 503, 200, 200, 200)
    async with probing(upstream):
        await until(lambda: upstream.asked >= 12)

    assert upstream.states[:12] == ["healthy"] * 7 + ["unhealthy"] * 4 + ["healthy"]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (503, "status 503"),
        (401, "status 401"),
        (UpstreamError(FailureCause.NOT_CONNECTED, "refused by 10.0.0.1 with sk-secret"), "no connection"),
        (UpstreamError(FailureCause.BROKEN, "reset"), "the connection broke off"),
    ],
)
async def test_what_is_not_well_is_told_in_a_few_words(answer: int | Exception, detail: str) -> None:
    async with probing(Answers(answer)) as (health, _):
        await until(lambda: health.state_of(TARGET).state == "unhealthy")

        probe = health.state_of(TARGET).probe
        assert probe is not None
        assert probe.detail == detail


async def test_a_probe_that_is_not_answered_fails() -> None:
    target = replace(TARGET, probe=replace(PROBE, timeout_s=0.005))
    async with probing(Hangs(), target) as (health, _):
        await until(lambda: health.state_of(target).state == "unhealthy")

        probe = health.state_of(target).probe
        assert probe is not None
        assert probe.detail == "no answer within 0.005 s"


async def test_it_says_when_it_can_be_back_at_the_soonest() -> None:
    clock = FakeClock()
    target = replace(TARGET, probe=replace(PROBE, interval_s=0.01))
    async with probing(Answers(503), target, clock=clock) as (health, _):
        await until(lambda: health.state_of(target).state == "unhealthy")

        assert health.back_in_s((target,)) == pytest.approx(0.02)


async def test_an_unexpected_error_ends_no_probing(caplog: pytest.LogCaptureFixture) -> None:
    upstream = Answers(RuntimeError("a bug"), 200)
    async with probing(upstream) as (health, _):
        await until(lambda: health.state_of(TARGET).probe is not None)

    assert "met an unexpected error" in caplog.text


async def test_only_the_worker_whose_turn_it_is_probes() -> None:
    class NotMine:
        async def may_probe(self, number: int, lease_s: float) -> bool:
            return False

    upstream = Answers(200)
    async with probing(upstream, leases=NotMine()):
        await asyncio.sleep(0.02)

    assert not upstream.asked


async def test_changes_take_effect_and_what_stays_goes_on() -> None:
    other = deployment("b", 2, probe=PROBE)
    upstream = Answers(200)
    async with probing(upstream, TARGET, other) as (_, probes):
        before = dict(probes._tasks)
        renamed = replace(TARGET, name="renamed")
        probes.use(snapshot(deployments=(renamed, replace(other, probe=None))))
        assert probes._tasks == {1: before[1]}

        probes.use(snapshot(deployments=(replace(TARGET, base_url="http://elsewhere.test"), other)))
        assert probes._tasks.keys() == {1, 2}
        assert probes._tasks[1] != before[1]
        await asyncio.sleep(0)
        assert before[1][1].cancelled()


async def test_a_probe_is_a_get_with_our_credential() -> None:
    scripted = ScriptedUpstream(Reply.json({"data": []}))
    status = await Upstream(scripted.transport).probe(deployment("a"), "/models?limit=1")

    (request,) = scripted.requests
    assert status == 200
    assert (request.method, str(request.url)) == ("GET", "http://a.test/v1/models?limit=1")
    assert request.headers["authorization"] == "Bearer provider-secret"
    assert request.content == b""
    assert scripted.streams[0].closed


async def test_a_probe_that_cannot_connect_says_so() -> None:
    scripted = ScriptedUpstream(httpx.ConnectError("refused"))

    with pytest.raises(UpstreamError) as raised:
        await Upstream(scripted.transport).probe(deployment("a"), "/models")
    assert raised.value.cause is FailureCause.NOT_CONNECTED


async def test_no_more_of_an_endless_answer_is_read_than_needed() -> None:
    piece = b"x" * 2**18
    scripted = ScriptedUpstream(Reply(200, {}, [piece] * 100))

    assert await Upstream(scripted.transport).probe(deployment("a"), "/models") == 200
    assert not scripted.streams[0].exhausted
    assert scripted.streams[0].closed

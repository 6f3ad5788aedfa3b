"""The health of deployments on `/metrics` and `/health`."""

from __future__ import annotations

from llmgateway.pipeline.route_rules import CircuitRules
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, snapshot

A, B = deployment("a", 1), deployment("b", 2)
FAILED = Reply.json({"error": {"message": "broken"}}, status=500)


def house(*script: Reply) -> House:
    return House(
        ScriptedUpstream(*script),
        snapshot(
            alias("gpt", A, B),
            providers=(A.provider, B.provider),
            deployments=(A, B),
            circuit=CircuitRules(failures=2, open_s=30),
        ),
    )


async def page(house: House) -> set[str]:
    answer = await house.request("GET", "/metrics", b"", {})
    return set(answer.text.splitlines())


async def test_each_deployment_is_in_one_state() -> None:
    metrics = await page(house())

    labels = f'deployment="a",model="gpt-upstream",provider="{A.provider}"'
    assert f'llmgateway_deployment_state{{{labels},state="healthy"}} 1.0' in metrics
    assert f'llmgateway_deployment_state{{{labels},state="open"}} 0.0' in metrics
    assert f"llmgateway_circuit_opens_total{{{labels}}} 0.0" in metrics


async def test_failures_of_requests_open_the_circuit_of_their_deployment() -> None:
    building = house(FAILED, Reply.json(CHAT), FAILED, Reply.json(CHAT), Reply.json(CHAT))
    for _ in range(3):
        assert (await building.chat()).status_code == 200

    metrics = await page(building)
    labels = f'deployment="a",model="gpt-upstream",provider="{A.provider}"'
    assert f'llmgateway_deployment_state{{{labels},state="open"}} 1.0' in metrics
    assert f"llmgateway_circuit_opens_total{{{labels}}} 1.0" in metrics
    # The third request asked the second deployment alone.
    assert [request.url.host for request in building.upstream.requests] == [
        "a.test",
        "b.test",
        "a.test",
        "b.test",
        "b.test",
    ]
    assert (await building.request("GET", "/health", b"", {})).json()["providers"] == {
        A.provider: "down",
        B.provider: "healthy",
    }

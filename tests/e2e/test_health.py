"""Circuits, probes and drains of a running gateway, changed and seen from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgateway.health_reports import Overall, overall_health
from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, wait_for

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
DEPLOYMENT = "from providers.models import Deployment; Deployment.objects.filter(name='fake-chat-main').update({})"
SETTINGS = "from llmgateway.models import GatewaySettings as S; S.objects.update({})"


class Watched:
    """A gateway whose circuits open and close quickly."""

    def __init__(self, product: Product, provider: Provider) -> None:
        self.product, self.provider = product, provider
        self.client = httpx.Client(base_url=product.url, headers={"authorization": f"Bearer {KEY}"}, timeout=10)

    def chat(self) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=CHAT)

    def set(self, statement: str, **columns: Any) -> None:
        """Change rows by SQL that knows nothing of the gateway; it follows within a second."""
        changes = ", ".join(f"{name}={value!r}" for name, value in columns.items())
        self.product.manage("shell", "-c", statement.format(changes))

    @property
    def overall(self) -> Overall:
        """What the pages show."""
        found = [each for each in overall_health(self.product.data / "run").values() if each.state != "healthy"]
        assert len(found) <= 1, found
        return found[0] if found else next(iter(overall_health(self.product.data / "run").values()))

    def becomes(self, state: str) -> None:
        wait_for(lambda: self.overall.state == state, f"{state!r} in the report", within_s=10)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("health")
    provider = Provider(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(provider.close)
        with running_product(folder, provider) as product:
            found = Watched(product, provider)
            stack.callback(found.client.close)
            found.set(SETTINGS, circuit_mode="enforce", circuit_failures=3, circuit_open_s=2, circuit_wait_s=0.1)
            wait_for(lambda: found.client.get("/health").json()["config_revision"] > 1, "the new settings")
            yield found


def test_failures_open_the_circuit_and_one_success_closes_it(watched: Watched) -> None:
    watched.provider.script(status=500, times=3)
    assert [watched.chat().status_code for _ in range(3)] == [500] * 3

    refused = watched.chat()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_healthy_target"
    assert refused.headers["x-gateway-degraded"] == "true"
    assert refused.headers["retry-after"] in {"1", "2"}
    assert len(watched.provider.sent) == 3
    watched.becomes("open")
    assert watched.overall.kind == "server_error"
    assert 'state="open"} 1.0' in watched.client.get("/metrics").text
    assert watched.client.get("/health").json()["providers"]["fake"] == "degraded"  # Its other models answer.

    wait_for(lambda: watched.chat().status_code == 200, "an answer after the pause", within_s=10)
    watched.becomes("healthy")


def test_a_drained_deployment_gets_nothing_and_goes_on_when_it_is_put_back(watched: Watched) -> None:
    watched.set(DEPLOYMENT, draining=True)
    wait_for(lambda: watched.chat().status_code == 503, "the drain")
    before = len(watched.provider.sent)
    assert watched.chat().status_code == 503
    assert len(watched.provider.sent) == before
    watched.becomes("draining")

    watched.set(DEPLOYMENT, draining=False)
    wait_for(lambda: watched.chat().status_code == 200, "being put back")


def test_probes_take_out_and_put_back_and_are_billed_to_nobody(watched: Watched) -> None:
    rows = len(watched.product.usage())
    watched.set(
        DEPLOYMENT, probe_enabled=True, probe_interval_s=1, probe_path="/nothing",
        probe_unhealthy_after=2, probe_healthy_after=1,
    )  # fmt: skip
    watched.becomes("unhealthy")
    probe = watched.overall.probe
    assert probe is not None
    assert probe.detail == "status 404"
    assert watched.chat().status_code == 503

    watched.set(DEPLOYMENT, probe_path="/models")
    wait_for(lambda: watched.chat().status_code == 200, "being well by probes", within_s=10)
    watched.set(DEPLOYMENT, probe_enabled=False)
    assert len(watched.product.usage()) == rows + 1


def test_a_reset_closes_the_circuit(watched: Watched) -> None:
    watched.set(SETTINGS, circuit_open_s=300)
    watched.provider.script(status=500, times=3)
    wait_for(lambda: watched.chat().status_code == 503, "an open circuit")
    generation = "from providers.models import Deployment; from django.db.models import F; "
    watched.product.manage(
        "shell", "-c", generation + "Deployment.objects.update(health_generation=F('health_generation') + 1)"
    )

    wait_for(lambda: watched.chat().status_code == 200, "the reset", within_s=5)

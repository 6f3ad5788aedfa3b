"""The health of deployments in the management API."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from auditlog.models import LogEntry

from llmgateway import conf as conf_module
from llmgateway.health_reports import DeploymentReport, Report
from llmgateway.pipeline.standings import ProbeStanding, Standing
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers report."""
    monkeypatch.setattr(
        conf_module, "conf", conf_module.Conf({**conf_module.conf.values, "GATEWAY_DATA_DIR": str(tmp_path)})
    )
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_it_says_what_workers_know(operator: Caller, world: World, folder: Path) -> None:
    probe = ProbeStanding(False, 1_773_489_600.0, 41.2, "status 503", 0.0)
    standing = Standing("unhealthy", "timeout", 2, retry_at=1_773_489_630.0, probe=probe)
    report = Report(time.time(), [DeploymentReport(world.deployment.pk, 4, standing)])
    (folder / "health-1.json").write_bytes(msgspec.json.encode(report))

    (found,) = operator.get("/health").json()["results"]

    assert found == {
        "id": world.deployment.pk,
        "name": world.deployment.name,
        "provider": world.provider.name,
        "model": world.deployment.model,
        "state": "unhealthy",
        "draining": False,
        "last_failure": "timeout",
        "failures": 2,
        "retry_at": "2026-03-14T12:00:30Z",
        "in_flight": 4,
        "workers": 1,
        "workers_out": 1,
        "probe": {"healthy": False, "at": "2026-03-14T12:00:00Z", "latency_ms": 41.2, "detail": "status 503"},
    }


def test_without_workers_nothing_is_known(operator: Caller, world: World) -> None:
    found = operator.get(f"/health/{world.deployment.pk}").json()

    assert (found["state"], found["probe"], found["workers"]) == ("unknown", None, 0)


def test_a_deployment_is_drained_put_back_and_reset(operator: Caller, world: World) -> None:
    def act(step: str) -> Any:
        answer = operator.post(f"/health/{world.deployment.pk}/{step}")
        assert answer.status_code == 200
        world.deployment.refresh_from_db()
        return answer.json()["draining"], world.deployment.health_generation

    assert [act(step) for step in ("drain", "drain", "put_back", "reset")] == [
        (True, 0), (True, 0), (False, 0), (False, 1),
    ]  # fmt: skip
    sources = [entry.additional_data for entry in LogEntry.objects.get_for_object(world.deployment)]
    assert len([source for source in sources if source and "management API" in str(source)]) == 3


def test_who_may_only_read_drains_nothing(caller: Callers, world: World) -> None:
    reader = caller("health:read")

    assert reader.get("/health").status_code == 200
    assert reader.post(f"/health/{world.deployment.pk}/drain").status_code == 403
    assert caller("models:read").get("/health").status_code == 403

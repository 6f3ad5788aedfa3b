"""The page of the health of deployments: what it shows, and what people can do there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from auditlog.models import LogEntry
from django.test import Client
from django.urls import reverse

from llmgateway import conf as conf_module
from llmgateway.health_reports import DeploymentReport, Report
from llmgateway.pipeline.standings import ProbeStanding, Standing
from providers.models import Deployment
from tests.llmgateway.admin.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def url() -> str:
    return reverse("admin:providers_deployment_health")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a worker say how a deployment is doing."""
    monkeypatch.setattr(
        conf_module, "conf", conf_module.Conf({**conf_module.conf.values, "GATEWAY_DATA_DIR": str(tmp_path)})
    )

    def tell(deployment: Deployment, standing: Standing, *, in_flight: int = 0) -> None:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        report = Report(time.time(), [DeploymentReport(deployment.pk, in_flight, standing)])
        (folder / "health-1.json").write_bytes(msgspec.json.encode(report))

    return tell


def row_of(client: Client, url: str, deployment: Deployment) -> str:
    page = client.get(url)
    assert page.status_code == 200
    return next(part for part in page.content.decode().split("<tr>") if f">{deployment.name}</a>" in part)


def test_those_in_trouble_come_first(owner: Client, world: World, url: str, told: Any) -> None:
    for name in ("aaa", "zzz", "yyy"):
        Deployment.objects.create(name=name, provider=world.provider, model=name, draining=name == "yyy")
    told(Deployment.objects.get(name="zzz"), Standing("open", "timeout", 5, retry_at=time.time() + 9, opens=1))

    text = owner.get(url).content.decode()

    assert sorted(("aaa", "zzz", "yyy", "acme-small"), key=lambda name: text.index(f">{name}</a>")) == [
        "zzz", "yyy", "aaa", "acme-small",
    ]  # fmt: skip


def test_many_come_in_pages_and_are_found(
    owner: Client, world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.admin.health.DEPLOYMENTS_PER_PAGE", 2)
    for number in range(3):
        Deployment.objects.create(name=f"more-{number}", provider=world.provider, model="m")

    def names(query: str) -> list[str]:
        text = owner.get(url + query).content.decode()
        return [name for name in ("acme-small", "more-0", "more-1", "more-2") if f">{name}</a>" in text]

    assert (names(""), names("?p=2"), names("?p=nonsense")) == (
        ["acme-small", "more-0"], ["more-1", "more-2"], ["acme-small", "more-0"],
    )  # fmt: skip
    assert names("?q=MORE-2") == ["more-2"]
    assert "No deployment is called like that" in owner.get(f"{url}?q=nope").content.decode()
    drained = owner.post(f"{url}?q=more&p=2", {"deployment": world.deployment.pk, "action": "drain"})
    assert drained.headers["Location"] == f"{url}?q=more&p=2"


def test_it_shows_what_workers_say(owner: Client, world: World, url: str, told: Any) -> None:
    probe = ProbeStanding(True, time.time(), 41.25, "status 200", time.time())
    told(
        world.deployment,
        Standing("open", "authentication", 3, retry_at=time.time() + 25, opens=1, probe=probe),
        in_flight=7,
    )

    row = row_of(owner, url, world.deployment)

    for text in (
        "circuit open", "the provider refuses the credential", ">3</td>", "in 25 s", "status 200, 41.3 ms", ">7</td>",
    ):  # fmt: skip
        assert text in row, text


def test_without_workers_it_says_that_nothing_is_known(owner: Client, world: World, url: str, told: Any) -> None:
    assert "unknown" in row_of(owner, url, world.deployment)


def test_what_is_only_noted_is_marked(owner: Client, world: World, url: str, told: Any) -> None:
    told(world.deployment, Standing("open", "timeout", 5, enforced=False))

    assert "noted only" in row_of(owner, url, world.deployment)


def test_a_deployment_is_drained_and_put_back_and_both_are_recorded(
    owner: Client, world: World, url: str, told: Any
) -> None:
    for action, draining in (("drain", True), ("put_back", False)):
        response = owner.post(url, {"deployment": world.deployment.pk, "action": action}, follow=True)

        assert world.deployment.name in str(next(iter(response.context["messages"])))
        world.deployment.refresh_from_db()
        assert world.deployment.draining is draining
        entry = LogEntry.objects.get_for_object(world.deployment).first()
        assert entry is not None
        assert entry.actor == world.cast.alice
        assert "draining" in entry.changes_dict
        assert ("draining" in row_of(owner, url, world.deployment)) is draining


def test_a_reset_begins_a_new_generation(owner: Client, world: World, url: str, told: Any) -> None:
    owner.post(url, {"deployment": world.deployment.pk, "action": "reset"})
    owner.post(url, {"deployment": world.deployment.pk, "action": "reset"})

    world.deployment.refresh_from_db()
    assert world.deployment.health_generation == 2


def test_an_auditor_sees_it_and_can_do_nothing(auditor: Client, world: World, url: str, told: Any) -> None:
    assert 'value="drain"' not in row_of(auditor, url, world.deployment)

    assert auditor.post(url, {"deployment": world.deployment.pk, "action": "drain"}).status_code == 403
    world.deployment.refresh_from_db()
    assert not world.deployment.draining


def test_who_has_no_permission_sees_nothing(newcomer: Client, world: World, url: str) -> None:
    assert newcomer.get(url).status_code == 403


@pytest.mark.parametrize(("deployment", "status"), [("x", 404), ("99999999", 404), ("9" * 40, 404), ("", 404)])
def test_what_is_not_there_cannot_be_drained(
    owner: Client, world: World, url: str, deployment: str, status: int
) -> None:
    assert owner.post(url, {"deployment": deployment, "action": "drain"}).status_code == status


def test_an_unknown_action_is_refused(owner: Client, world: World, url: str) -> None:
    assert owner.post(url, {"deployment": world.deployment.pk, "action": "explode"}).status_code == 403


def test_the_side_bar_leads_there_and_marks_one_page(owner: Client, world: World, url: str, told: Any) -> None:
    page = owner.get(url)
    (items,) = [
        group["items"]
        for group in page.context["sidebar_navigation"]
        if any(str(item["link"]) == url for item in group["items"])
    ]

    assert [str(item["title"]) for item in items if item["active"]] == ["Health"]

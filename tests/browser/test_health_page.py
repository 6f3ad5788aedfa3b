"""The page of health where it is needed most: on a telephone, at night, with everything out of order."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from llmgateway import conf as conf_module
from llmgateway.health_reports import DeploymentReport, Report
from llmgateway.pipeline.standings import ProbeStanding, Standing
from providers.models import Deployment
from tests.browser.conftest import Scheme, VisitorFactory
from tests.llmgateway.admin.world import World

PATH = "/admin/providers/deployment/health/"
NAMES = (
    "eu-west-1-claude-sonnet-4-5-20250929-production",
    "anthropic.claude-3-5-sonnet-20241022-v2:0-us-east-1-provisioned",
    "gpt",
    "local",
)


@pytest.fixture
def reported(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Deployments in every state, as two workers report them."""
    for name in NAMES:
        Deployment.objects.create(
            name=name, provider=world.provider, credential=world.credential, model=f"{name}-model", probe_enabled=True
        )
    Deployment.objects.filter(name="local").update(draining=True)
    known = {**conf_module.conf.values, "GATEWAY_DATA_DIR": str(tmp_path)}
    monkeypatch.setattr(conf_module, "conf", conf_module.Conf(known))
    now = time.time()
    probe = ProbeStanding(False, now, 5_012.4, "no answer within 5 s from the address of the probe", now, now + 30)
    standings = [
        Standing("healthy"),
        Standing("open", "authentication", 12, retry_at=now + 3_599),
        Standing("unhealthy", "timeout", 3, retry_at=now + 29, probe=probe),
        Standing("half_open", "upstream_connection_failed", 5),
        Standing("draining"),
    ]
    (tmp_path / "run").mkdir()
    for worker in (1, 2):
        rows = zip(Deployment.objects.order_by("pk"), standings, strict=True)
        report = Report(now, [DeploymentReport(row.pk, 17, standing) for row, standing in rows])
        (tmp_path / "run" / f"health-{worker}.json").write_bytes(msgspec.json.encode(report))
    return world


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "dark"), (768, "light"), (1024, "light")])
def test_nothing_is_to_be_scrolled_sideways(
    visit_as_owner: VisitorFactory, reported: World, width: int, scheme: Scheme
) -> None:
    visit = visit_as_owner(width, scheme)
    page = visit.open(PATH)

    hidden = page.evaluate(
        "[...document.querySelectorAll('.gw-scroll, .gw-panel')].map((each) => each.scrollWidth - each.clientWidth)"
    )

    assert visit.overflow() <= 0
    assert max(hidden) <= 0


def test_on_a_telephone_it_says_what_there_is_to_say_and_has_keys_for_thumbs(
    visit_as_owner: VisitorFactory, reported: World
) -> None:
    page = visit_as_owner(390, "light").open(PATH)

    well = page.locator("tbody", has=page.get_by_role("link", name="acme-small")).locator("td:visible")
    ill = page.locator("tbody", has=page.get_by_role("link", name=NAMES[1])).locator("td[data-label]:visible")
    keys = page.locator("tbody button").all()

    assert [text.split() for text in well.all_inner_texts()[1:3]] == [["healthy"], ["34"]]
    assert ill.count() == 5
    assert len({round(box["x"]) for each in ill.all() if (box := each.bounding_box())}) == 1, "one figure a line"
    assert len(keys) == 2 * (len(NAMES) + 1)
    assert min(box["height"] for each in keys if (box := each.bounding_box())) >= 44

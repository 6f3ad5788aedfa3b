"""The demo's made-up past and its state."""

from __future__ import annotations

import stat
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from billing.ledger import drain_orphans
from billing.models import UsageRecord, UsageRollup
from billing.pricing import PriceVersion, cost
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_file.importing import import_text
from llmgateway.config_loader import load_snapshot
from llmgateway.demo import history, state
from llmgateway.demo.configuration import FILE, configure, lets_in
from llmgateway.models import ApiKey, RateLimit, Team
from llmgateway.pipeline.snapshot import Snapshot
from llmgateway.services import key_rotate, key_set_tenants
from llmgateway.supervisor import StartError
from providers.adapters.types import Usage
from providers.models import Provider

VARIABLES = {
    "DEMO_PROVIDER_URL": "http://127.0.0.1:9/v1",
    **{name: f"sk-gw-{name}-0123456789" for name in state.KEY_VARIABLES},
}


@pytest.fixture
def snapshot(db: None) -> Snapshot:
    import_text(FILE.read_text(), "demo.yaml", variables=VARIABLES)
    return load_snapshot(revision=1)


@pytest.fixture
def configured(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's first start."""
    monkeypatch.setattr(conf_module, "conf", Conf({**conf_module.conf.values, **VARIABLES}))
    configure(VARIABLES["DEMO_PROVIDER_URL"])


@pytest.mark.usefixtures("configured")
def test_what_an_admin_changed_or_deleted_outlives_a_start() -> None:
    key = ApiKey.objects.get(name="demo")
    key_set_tenants(key, [Team.objects.get(name="demo-mobile")])
    key.limits.update(amount=7)
    RateLimit.objects.create(key=key, metric="tokens", per="day", amount=1_000)
    ApiKey.objects.filter(name="demo-notebooks").delete()

    configure(VARIABLES["DEMO_PROVIDER_URL"])

    assert [team.name for team in key.tenants.all()] == ["demo-mobile"]
    assert sorted(key.limits.values_list("metric", "amount")) == [("requests", 7), ("tokens", 1_000)]
    assert not ApiKey.objects.filter(name="demo-notebooks").exists()


@pytest.mark.usefixtures("configured")
def test_where_its_provider_moved_its_address_follows_and_no_other(tmp_path: Path) -> None:
    before, now = "http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"

    configure(now, [before])
    moved = Provider.objects.get(name="fake").base_url
    Provider.objects.filter(name="fake").update(base_url="https://own.example/v1")
    configure(before, [before, now])

    assert moved == now
    assert Provider.objects.get(name="fake").base_url == "https://own.example/v1"


@pytest.mark.usefixtures("configured")
def test_it_knows_whether_its_key_is_still_its_own() -> None:
    secret = VARIABLES["DEMO_KEY"]
    before = lets_in(secret)
    key_rotate(ApiKey.objects.get(name="demo"), grace=timedelta(0))

    assert (before, lets_in(secret)) == (True, False)


def test_ports_of_its_provider_are_remembered() -> None:
    first = state.DemoState("pw", {}, provider_port=0).at_port(81)

    second = first.at_port(82).at_port(82)

    assert (first.former_ports, second.former_ports, second.provider_port) == ((), (81,), 82)
    assert second.at_port(81).former_ports == (82,)
    assert second.variables()["DEMO_FORMER_PROVIDER_URLS"] == "http://127.0.0.1:81/v1"


def test_the_past_has_days_endings_and_exact_costs(snapshot: Snapshot) -> None:
    now = timezone.now().timestamp()

    made = [closed for _, closed in history.requests(snapshot, now=now)]

    prices: dict[int, PriceVersion] = {
        price.id: price
        for alias in snapshot.aliases.values()
        for deployment in alias.deployments
        for price in deployment.prices
    }
    assert len({int(record["started_at"] // 86_400) for record in made}) >= history.DAYS
    assert all(now - history.DAYS * 86_400 < record["started_at"] < now for record in made)
    assert set(Counter(record["status"] for record in made)) == {"completed", "cancelled", "failed"}
    for record in made:
        used = Usage(input=record["input"], cache_read=record["cache_read"], output=record["output"])
        if record["status"] == "failed":
            assert used == Usage()
        assert record["cost_pico_usd"] == cost(prices[record["price_id"]], used)
        assert record["key_name"].startswith("demo")
        assert record["team_name"].startswith("demo")


def test_the_past_reaches_the_ledger_like_real_requests(snapshot: Snapshot, tmp_path: Path) -> None:
    conf = Conf({"GATEWAY_DATA_DIR": str(tmp_path)})

    count = history.write_history(conf, snapshot, now=timezone.now().timestamp())
    drain_orphans(conf.journal_dir)

    assert UsageRecord.objects.count() == count > 1000
    assert sum(UsageRollup.objects.values_list("requests", flat=True)) == count


def test_a_second_run_keeps_its_secrets(tmp_path: Path) -> None:
    first = state.load_or_create(tmp_path)
    second = state.load_or_create(tmp_path)

    assert second == first
    assert stat.S_IMODE((tmp_path / state.FILE).stat().st_mode) == 0o600


def test_a_folder_with_other_data_is_neither_used_nor_reset(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite3").touch()

    with pytest.raises(StartError, match="is not a demo's data folder"):
        state.load_or_create(tmp_path)
    with pytest.raises(StartError, match="is not reset"):
        state.reset(tmp_path)
    assert (tmp_path / "gateway.sqlite3").exists()


def test_a_reset_removes_what_the_demo_made(tmp_path: Path) -> None:
    first = state.load_or_create(tmp_path)
    (tmp_path / "journal").mkdir()
    (tmp_path / "gateway.sqlite3").touch()

    state.reset(tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert state.load_or_create(tmp_path).secrets != first.secrets

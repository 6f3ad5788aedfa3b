"""The demo's made-up past and its state."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path

import pytest
from django.utils import timezone

from billing.ledger import drain_orphans
from billing.models import UsageRecord, UsageRollup
from billing.pricing import PriceVersion, cost
from llmgateway.conf import Conf
from llmgateway.config_file.importing import import_text
from llmgateway.config_loader import load_snapshot
from llmgateway.demo import history, state
from llmgateway.management.commands.demo import CONFIGURATION
from llmgateway.pipeline.snapshot import Snapshot
from llmgateway.supervisor import StartError
from providers.adapters.types import Usage

VARIABLES = {
    "DEMO_PROVIDER_URL": "http://127.0.0.1:9/v1",
    **{name: f"sk-gw-{name}-0123456789" for name in state.KEY_VARIABLES},
}


@pytest.fixture
def snapshot(db: None) -> Snapshot:
    import_text(CONFIGURATION.read_text(), "demo.yaml", variables=VARIABLES)
    return load_snapshot(revision=1)


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

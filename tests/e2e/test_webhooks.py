"""A running gateway tells a receiver of its requests, the receiver's absence included."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.billing.reporters.receiver import SECRET, Receiver
from tests.e2e.launched import LaunchedGateway, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = """
version: 1
reporters:
  billing: {{url: "{url}", allow_private_network: true, secret: "{secret}"}}
"""
MANY = 25
WITHIN_S = 90


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    running.start()
    yield running
    running.stop()


def _rows(data_dir: Path) -> set[str]:
    with sqlite3.connect(data_dir / "gateway.sqlite3") as database:
        return {request_id for (request_id,) in database.execute("SELECT substr(event_id, 7) FROM billing_delivery")}


def test_a_receiver_gets_every_request_also_after_it_was_down(receiver: Receiver, tmp_path: Path) -> None:
    config = tmp_path / "reporters.yaml"
    config.write_text(CONFIG.format(url=receiver.url, secret=SECRET))
    # The demo comes with a provider, a key and traffic.
    with LaunchedGateway(tmp_path / "data", "demo", "--config", str(config)) as running:
        wait_until(lambda: len(receiver.received) >= 3, within_s=WITHIN_S, what="the first deliveries")
        receiver.stop()
        before = _rows(running.data_dir)
        wait_until(lambda: len(_rows(running.data_dir) - before) >= MANY, within_s=WITHIN_S, what="more requests")
        assert running.status("/health/ready") == 200

        receiver.start()
        expected = _rows(running.data_dir)
        wait_until(lambda: expected <= set(receiver.request_ids), within_s=WITHIN_S, what="the delivery of the rest")

        assert all(each.is_signed() for each in receiver.received)
        assert len(receiver.request_ids) == len(set(receiver.request_ids))
        assert SECRET not in running.output
        assert not [each for each in receiver.received if "sk-gw-" in json.dumps(each.content)]

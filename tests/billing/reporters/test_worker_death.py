"""A worker killed in the middle of a delivery: another one delivers everything, at least once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing.models import Delivery
from billing.reporters import claims
from billing.reporters.courier import Courier
from billing.reporters.outbox import add_event
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from tests.billing.reporters.receiver import Receiver, make_reporter

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[3]

DELIVER = """
import django
django.setup()
from billing.reporters.courier import Courier
Courier().run(for_s=60)
"""


def test_a_killed_worker_loses_no_event_on_sqlite(sqlite_file: Path, receiver: Receiver) -> None:
    check_killed_worker(receiver, "sqlite_file", sqlite_file.parent)


@pytest.mark.postgres
def test_a_killed_worker_loses_no_event_on_postgresql(
    postgres: str, postgres_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    check_killed_worker(receiver, postgres, tmp_path, DATABASE_URL=postgres_url)


def check_killed_worker(receiver: Receiver, using: str, folder: Path, **variables: str) -> None:
    reporter = make_reporter(receiver.url, using=using)
    ids = [f"r{number:02}" for number in range(40)]
    for name in ids:
        add_event("usage", f"usage_{name}", f'{{"request_id":"{name}"}}', [reporter], using=using)
    receiver.delay_s = 1.0
    environment = {
        **os.environ, **variables, "GATEWAY_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "llmgateway.settings",
        Conf.field_keys.name: ",".join(conf_module.conf.field_keys),
    }  # fmt: skip
    worker = subprocess.Popen([sys.executable, "-c", DELIVER], cwd=ROOT, env=environment)
    try:
        patience = threading.Event()
        for _ in range(1500):
            if len(receiver.received) > 20 or worker.poll() is not None:
                break
            patience.wait(0.02)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
    deliveries = Delivery.objects.using(using)
    assert deliveries.filter(state="pending").exclude(claim="").exists()

    receiver.delay_s = 0.0
    later = timedelta(seconds=claims.LEASE_S + 1)
    Courier(using=using, now=lambda: datetime.now(UTC) + later).run(for_s=20)

    assert set(receiver.request_ids) == set(ids)
    assert set(deliveries.values_list("state", flat=True)) == {"delivered"}

"""The product as a process, with months of a team's traffic: for pages that need a real server and its sockets.

`python -m tests.dashboard.site` fills the database of `GATEWAY_DATA_DIR`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmgateway.conf import PROJECT_ROOT
from llmgateway.http import httpx
from tests.prepared import with_tables

START_S = 30.0


def run(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the product's settings, to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=PROJECT_ROOT, env=_environment(data_dir)
    )


@contextmanager
def running_site(data_dir: Path) -> Iterator[str]:
    """Its address, while it runs."""
    with_tables(data_dir)
    run(data_dir, "manage.py", "collectstatic", "--noinput", "-v0")
    run(data_dir, "-m", "tests.dashboard.site")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "llmgateway.asgi:application", "--port", str(port)]
    with (data_dir / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=PROJECT_ROOT, env=_environment(data_dir), stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/login/", server, data_dir / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _environment(data_dir: Path) -> dict[str, str]:
    return {**os.environ, "GATEWAY_DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "llmgateway.settings"}


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            assert httpx.get(url).status_code == 200
        except httpx.TransportError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)  # noqa: TID251  # the process that is waited for is another one
        else:
            return


def fill() -> None:
    """The cast, budgets, and 95 days of traffic of the team `platform`, which ends now."""
    from django.db import transaction

    from billing.models import Budget
    from billing.money import PICO_PER_USD
    from tests.cast import create_cast
    from tests.dashboard.seeding import Traffic, save, traffic

    cast = create_cast()
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    keys = ((str(cast.platform_key.pk), "web-app"), ("77", "support-bot"), ("78", "nightly-batch"))
    refused = [
        {"hour": (now - timedelta(hours=back)).timestamp(), "team_id": cast.platform.id, "key_id": "77",
         "alias": "gpt-4o", "team_name": "platform", "key_name": "support-bot", "count": back % 3,
         "code": ("rate_limit_exceeded", "insufficient_quota", "rate_limit_exceeded", "model_not_allowed")[back % 4]}
        for back in range(1, 200)
    ]  # fmt: skip
    with transaction.atomic():
        save(traffic(Traffic(cast.platform.id, "platform", keys, 10), now - timedelta(days=95), now), refused)
    Budget.objects.create(name="month", team=cast.platform, window="month", limit_pico_usd=40 * PICO_PER_USD)
    Budget.objects.create(name="day", team=cast.platform, window="day", limit_pico_usd=PICO_PER_USD)


def spend(cost: int, record_id: str) -> None:
    """One more request of `platform`, just now."""
    from django.db import transaction

    from llmgateway.models import Team
    from tests.dashboard.seeding import row, save

    team = Team.objects.get(name="platform")
    with transaction.atomic():
        save([row(datetime.now(UTC), id=record_id, team_id=team.pk, cost_pico_usd=cost)])


if __name__ == "__main__":
    import django

    django.setup()
    if sys.argv[1:]:
        spend(int(sys.argv[1]), sys.argv[2])
    else:
        fill()

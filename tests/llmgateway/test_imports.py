"""A worker's memory is for requests: libraries that it may never use are loaded by who needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import uvicorn.server

from llmgateway.management.commands.serve import GatewayServer

UNUSED = (
    "aiohttp", "cel", "click", "django.test", "drf_spectacular.plumbing", "psycopg", "pygments", "redis", "requests", "rich", "twisted", "yaml",
)  # fmt: skip


def test_a_worker_on_sqlite_loads_none_of_the_large_libraries_that_it_may_never_use(tmp_path: Path) -> None:
    code = f"import sys, llmgateway.asgi, llmgateway.management.commands.serve; print(*[name for name in {UNUSED!r} if name in sys.modules])"
    env = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}

    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**env, "GATEWAY_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "llmgateway.settings"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert loaded.stdout.split() == []


def test_uvicorn_has_its_server_without_its_command_line() -> None:
    assert uvicorn.Server is uvicorn.server.Server
    assert issubclass(GatewayServer, uvicorn.server.Server)

"""The file means the same on PostgreSQL, through the commands that an operator runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from llmgateway.conf import PROJECT_ROOT

pytestmark = pytest.mark.postgres

BAD = "version: 1\nteams: {a: {}, b: {time_zone: Nowhere}}\n"


def manage(url: str, data_dir: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATABASE_URL": url, "GATEWAY_DATA_DIR": str(data_dir)}
    command = [sys.executable, str(PROJECT_ROOT / "manage.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def changes(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM llmgateway_configchange").fetchone()
    assert row is not None
    return int(row[0])


def test_import_export_and_import_again(postgres_url: str, tmp_path: Path) -> None:
    example, copy = PROJECT_ROOT / "config.example.yaml", tmp_path / "copy.yaml"

    first = manage(postgres_url, tmp_path, "import_config", example)
    assert first.returncode == 0, first.stderr
    assert "47 created" in first.stdout
    recorded = changes(postgres_url)
    assert recorded >= 45

    exported = manage(postgres_url, tmp_path, "export_config")
    copy.write_text(exported.stdout)
    second = manage(postgres_url, tmp_path, "import_config", copy, "--prune")

    assert second.stdout == "0 created, 0 changed, 0 removed, 45 unchanged.\n", second.stderr
    assert changes(postgres_url) == recorded


def test_a_bad_row_leaves_nothing_behind(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    before = changes(postgres_url)

    refused = manage(postgres_url, tmp_path, "import_config", file)

    assert refused.returncode == 1
    assert f"{file}:2: teams.b.time_zone: Nowhere is not a time zone" in refused.stderr
    assert changes(postgres_url) == before

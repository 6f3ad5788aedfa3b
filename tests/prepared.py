"""The tables that a first start makes, made once for each process of the tests: they are most of what a start costs.

Whoever starts the product on a copy of them tests everything but its migrations; `tests/e2e/test_launcher.py` starts on
nothing at all.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "gateway.sqlite3"


@cache
def migrated_database() -> Path:
    """A SQLite database with all tables and no rows but those of migrations. For copies, not for use."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-tests-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(GATEWAY_DATA_DIR=str(folder))
    return folder / DATABASE


def with_tables(data_dir: Path) -> Path:
    """Make `data_dir` a data folder whose tables are there already."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy(migrated_database(), data_dir / DATABASE)
    return data_dir


def migrate(**settings: str) -> None:
    """Runs the product's migrations in a process of their own, as an operator does."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "migrate", "-v", "0"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "llmgateway.settings", **settings}
    subprocess.run(command, env=environment, check=True, timeout=100)

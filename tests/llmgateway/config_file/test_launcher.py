"""The same through `./gateway`, whose `--data` decides where everything lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llmgateway.conf import PROJECT_ROOT

EXAMPLE = PROJECT_ROOT / "config.example.yaml"


def gateway(data_dir: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GATEWAY_DATA_DIR"}
    command = [sys.executable, "-m", "llmgateway.cli", *map(str, arguments), "--data", str(data_dir)]
    return subprocess.run(command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)


def test_import_into_a_fresh_data_folder_encrypts_with_its_own_keys(tmp_path: Path) -> None:
    first = gateway(tmp_path, "import", EXAMPLE)
    assert first.returncode == 0, first.stderr
    assert "Generated secrets" in first.stdout
    assert (tmp_path / "secrets.env").stat().st_mode & 0o777 == 0o600

    second = gateway(tmp_path, "import", EXAMPLE)

    assert second.stdout.endswith("0 created, 0 changed, 0 removed, 45 unchanged.\n"), second.stderr

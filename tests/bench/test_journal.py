"""The journal's benchmark runs and prints a figure for every policy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.journal import POLICIES, records
from bench.processes import ROOT
from billing.journal_files import to_json
from billing.usage_rows import COLUMNS, decoded

pytestmark = pytest.mark.e2e


def test_it_prints_every_policy_and_the_drain(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "bench.journal", "--requests", "100", "--rounds", "1"]

    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )

    lines = done.stdout.splitlines()
    for policy in POLICIES:
        [line] = [line for line in lines if line.startswith(f"| `{policy}` |")]
        figures = [float(text.replace(",", "")) for text in re.findall(r"[\d,.]+", line)]
        assert len(figures) == 5
        assert min(figures[0], figures[-1]) > 0
    assert len([line for line in lines if re.match(r"\| (1,000|200|50) \|", line)]) == 3
    assert list(tmp_path.iterdir()) == []


def test_its_records_are_like_the_pipelines() -> None:
    opened, closed = records(7)

    assert {"windows", "input_estimate", "request_price"} <= opened.keys()
    assert decoded(to_json(closed)).usage_source == "provider"
    assert closed.keys() <= set(COLUMNS)

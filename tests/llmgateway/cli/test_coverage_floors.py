"""Coverage floors: what is below them is named, and so is a floor of nothing."""

from __future__ import annotations

import json
from pathlib import Path

from llmgateway.conf import PROJECT_ROOT
from llmgateway.coverage_floors import floors, too_low


def test_folders_below_their_floor_and_folders_that_are_gone_are_named(tmp_path: Path) -> None:
    report = tmp_path / "coverage.json"
    report.write_text(
        json.dumps(
            {
                "files": {
                    "billing/money.py": {
                        "summary": {"num_statements": 8, "covered_lines": 8, "num_branches": 2, "covered_branches": 2}
                    },
                    "billing/late.py": {"summary": {"num_statements": 10, "covered_lines": 0}},
                    "billing2/x.py": {"summary": {"num_statements": 100, "covered_lines": 0}},
                }
            }
        )
    )

    complaints = too_low(report, {"billing": 50, "billing2": 0, "gone": 1})

    assert too_low(report, {"billing": 51}) == ["billing: 50.0 % of lines and branches are tested, the floor is 51 %"]
    assert [complaint.partition(":")[0] for complaint in complaints] == ["gone"]


def test_every_floor_is_of_a_folder_that_exists() -> None:
    assert floors()
    assert all((PROJECT_ROOT / folder).is_dir() for folder in floors())

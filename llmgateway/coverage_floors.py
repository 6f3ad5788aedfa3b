"""Holds test coverage at or above the floors in pyproject.toml, package by package. No Django."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from llmgateway.conf import PROJECT_ROOT


def floors() -> dict[str, float]:
    """Least percentage of lines and branches, by folder."""
    with (PROJECT_ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, float] = tomllib.load(file)["tool"]["gateway"]["coverage"]
    return found


def too_low(report: Path, least: dict[str, float]) -> list[str]:
    """A line for each folder of coverage's JSON report that is below its floor, or that no file of it belongs to."""
    files: dict[str, dict[str, Any]] = json.loads(report.read_text())["files"]
    complaints = []
    for folder, floor in least.items():
        share = _share([entry["summary"] for name, entry in files.items() if name.startswith(f"{folder}/")])
        if share is None:
            complaints.append(f"{folder}: nothing of it was measured; is the folder still there?")
        elif share < floor:
            complaints.append(f"{folder}: {share:.1f} % of lines and branches are tested, the floor is {floor} %")
    return complaints


def _share(summaries: list[dict[str, Any]]) -> float | None:
    known = sum(each["num_statements"] + each.get("num_branches", 0) for each in summaries)
    if not known:
        return None
    seen = sum(each["covered_lines"] + each.get("covered_branches", 0) for each in summaries)
    return float(100 * seen / known)

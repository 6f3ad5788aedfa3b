"""Publishing: tables go where their marks are, what was not measured stays, and a busy machine publishes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bench.processes import BenchError
from bench.publish import PAGE, publish
from bench.report import CURVES
from bench.scenarios import SCENARIOS
from tests.bench.test_report import PLAN, result, three_rounds

DOCUMENT = """# Cost

<!-- bench low -->
old
<!-- /bench -->

Between.

<!-- bench burst -->
of another run
<!-- /bench -->
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    made = tmp_path / "performance.md"
    made.write_text(DOCUMENT)
    return made


def test_a_table_and_its_plots_take_the_place_of_the_old_ones(page: Path) -> None:
    pictures = {"low-cpu.svg": "<svg>low</svg>", "json-cpu.svg": "<svg>json</svg>"}

    assert publish(result(three_rounds()), PLAN, pictures, page) == ["low"]

    text = page.read_text()
    assert "old" not in text
    assert "| gateway, all on  |" in text
    assert "![low-cpu.svg](plots/low-cpu.svg)" in text
    assert [file.name for file in (page.parent / "plots").iterdir()] == ["low-cpu.svg"]


def test_it_can_be_done_again_and_leaves_the_rest_alone(page: Path) -> None:
    publish(result(three_rounds()), PLAN, {}, page)
    once = page.read_text()

    publish(result(three_rounds()), PLAN, {}, page)

    assert page.read_text() == once
    assert "Between.\n\n<!-- bench burst -->\nof another run\n<!-- /bench -->\n" in once


def test_a_busy_machine_publishes_nothing(page: Path) -> None:
    busy = result(three_rounds())
    busy.load_average = 40.0 * (os.cpu_count() or 1)

    with pytest.raises(BenchError, match="nothing published: the machine was busy"):
        publish(busy, PLAN, {}, page)

    assert page.read_text() == DOCUMENT


def test_every_mark_in_the_documentation_is_of_something_that_is_measured() -> None:
    marks = re.findall(r"<!-- bench (\S+) -->", PAGE.read_text())

    assert len(marks) == len(set(marks)) >= 15
    assert set(marks) <= {*SCENARIOS, *CURVES, "reload"}

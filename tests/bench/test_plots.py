"""Plots: every value is where the axis has it, and nothing runs out of the picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from bench.drawings import drawings
from bench.plots import WIDTH, Bar, Dot, Line, bars, curves
from bench.report import rows
from bench.run import Plan
from bench.scenarios import chosen
from tests.bench.test_report import sample

BARS = [Bar("nginx <proxy>", 14, 13, 15), Bar("gateway", 70, 65, 90, 0)]
NAMESPACE = "{http://www.w3.org/2000/svg}"


def elements(text: str, name: str, css: str) -> list[ET.Element]:
    root = ET.fromstring(text)
    return [found for found in root.iter(f"{NAMESPACE}{name}") if css in found.get("class", "").split()]


def texts(text: str) -> list[str]:
    return [found.text or "" for found in ET.fromstring(text).iter(f"{NAMESPACE}text")]


def test_a_bar_is_as_long_as_its_value() -> None:
    [first, second] = elements(bars("Cost", "µs", BARS), "rect", "bar")

    assert float(second.attrib["width"]) / float(first.attrib["width"]) == pytest.approx(70 / 14, rel=0.01)


def test_title_unit_labels_and_values_are_written() -> None:
    found = texts(bars("Cost", "CPU µs per request", BARS))

    assert {"Cost", "CPU µs per request", "nginx <proxy>", "gateway", "14", "70"} <= set(found)


def test_values_far_apart_share_a_logarithmic_axis_that_says_so() -> None:
    text = bars("Cost", "µs", [Bar("nginx", 14, 13, 15), Bar("LiteLLM", 8700, 8000, 9000)])
    [first, second] = (float(found.attrib["width"]) for found in elements(text, "rect", "bar"))

    assert "µs (logarithmic)" in texts(text)
    assert first > 20
    assert second < WIDTH


def test_bars_below_zero_reach_to_the_left() -> None:
    [below, above] = elements(bars("Moved", "ms", [Bar("a", -2, -3, -1), Bar("b", 2, 1, 3)]), "rect", "bar")

    assert float(below.attrib["x"]) + float(below.attrib["width"]) == pytest.approx(float(above.attrib["x"]))


def test_a_flat_curve_is_drawn_flat_and_a_growing_one_rises() -> None:
    flat = Line("CPU", [Dot(1, 70, 69, 71), Dot(1000, 70, 69, 71)])
    grows = Line("p99", [Dot(1, 10, 9, 11), Dot(1000, 60, 50, 70)], 1)

    found = elements(curves("Cost", "keys", "µs", [flat, grows]), "path", "line")

    levels = [[float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path.attrib["d"])] for path in found]
    assert levels[0][0] == levels[0][1]
    assert levels[1][0] > levels[1][1]


def test_both_color_schemes_are_served() -> None:
    assert "prefers-color-scheme: dark" in bars("Cost", "µs", BARS)


def test_everything_that_was_measured_is_drawn() -> None:
    plan = Plan(scenarios=chosen(["json", "paced-200", "keys", "keys-low", "reload"]), targets=(), rounds=1, seconds=1)
    samples = [sample(name, 1, scenario=scenario.name) for scenario in plan.scenarios for name in scenario.targets]

    found = drawings(rows(samples), plan)

    assert sorted(found) == [
        "json-cpu.svg",
        "keys-cpu.svg",
        "keys-latency.svg",
        "paced-200-cpu.svg",
        "paced-200-latency.svg",
        "reload.svg",
    ]
    assert all(ET.fromstring(text).tag == f"{NAMESPACE}svg" for text in found.values())

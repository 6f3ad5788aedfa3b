"""What an import does to prices and settings: what stands, comes, and goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from billing.models import Price
from llmgateway.config_file.export import export_text
from llmgateway.config_file.importing import import_text
from llmgateway.models import (
    GatewaySettings,
)
from tests.llmgateway.config_file.apply_scene import ROUTES
from tests.llmgateway.config_file.conftest import load, problems

pytestmark = pytest.mark.django_db


# Prices


def test_a_price_that_stands_is_unchanged_however_it_is_written() -> None:
    price = "prices: [{{provider: openai, model: m, input: {}, output: {}, effective_from: 2026-01-01}}]\n"
    load(ROUTES + price.format('"0.15"', '"0.60"'))

    report = load(ROUTES + price.format("0.150", "0.6"))

    assert report.changes == []
    assert Price.objects.count() == 1


def test_another_price_for_the_same_moment_is_an_error_that_says_what_to_do() -> None:
    price = "prices: [{{provider: openai, model: m, input: {}, effective_from: 2026-01-01}}]\n"
    load(ROUTES + price.format("0.15"))

    found = problems(ROUTES + price.format("0.20"))

    assert len(found) == 1
    assert found[0].startswith("config.yaml:9: prices[0]: Prices are never edited")
    assert "input 0.15" in found[0]
    assert "later effective_from" in found[0]
    assert Price.objects.get().input == 150_000


def test_a_later_price_stands_beside_the_earlier_one() -> None:
    line = "  - {{provider: openai, model: m, input: {}, effective_from: {}}}\n"
    first, second = line.format("0.15", "2026-01-01"), line.format("0.20", "2026-06-01T00:00:00+02:00")

    load(ROUTES + "prices:\n" + first)
    load(ROUTES + "prices:\n" + first + second)

    assert [(row.input, row.effective_from.isoformat()) for row in Price.objects.order_by("effective_from")] == [
        (150_000, "2026-01-01T00:00:00+00:00"),
        (200_000, "2026-05-31T22:00:00+00:00"),
    ]


@pytest.mark.parametrize("text", ["0.000001", "1e-6", "0.0000010"])
def test_six_decimals_of_a_price_are_exact(text: str) -> None:
    load(ROUTES + f"prices: [{{provider: openai, model: m, input: {text}}}]\n")

    assert Price.objects.get().input == 1


def test_settings_that_are_not_named_stay(tmp_path: Path) -> None:
    load("settings: {retries: {attempts: 5}, request_body_limit_mb: 64}\n")

    load("settings: {retries: {max_ms: 1000}}\n")

    row = GatewaySettings.objects.get()
    assert (row.retry_attempts, row.retry_max_ms, row.request_body_limit_mb, row.retry_initial_ms) == (5, 1000, 64, 250)


def test_settings_that_the_file_does_not_name_stay() -> None:
    load("settings: {admission: {quota_status: 429}}")
    load("settings: {estimation: {chars_per_token_by_provider: {}}}")

    row = GatewaySettings.objects.get()
    assert (row.quota_status, row.hold_wait_ms, row.chars_per_token_by_provider) == (429, 200, {})


DEFAULT_PRICE = ("default_input_price", "default_output_price", "default_request_price")


def test_a_default_price_comes_stays_and_goes() -> None:
    figures = []
    for settings in ("{default_price: {input: 5, output: '15.5', request: 0.001}}", "{}", "{default_price: none}"):
        load(f"settings: {settings}")
        figures.append(tuple(GatewaySettings.objects.values_list(*DEFAULT_PRICE).get()))

    assert figures == [(5_000_000, 15_500_000, 10**9), (5_000_000, 15_500_000, 10**9), (None, None, None)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{input: 5}", "default_price.output: `output` is missing"),
        ("{input: 5, output: -1}", "default_price.output: -1 is negative"),
        ("{input: 5, output: 1001}", "default_price.output: More than $1,000 per million tokens is surely a slip"),
        ("{input: 5, output: 6, cache_read: 1}", "There is no field `cache_read` here"),
        ("cheap", "Expected fields"),
    ],
)
def test_a_default_price_that_cannot_be_is_refused(written: str, said: str) -> None:
    (found,) = problems(f"settings: {{default_price: {written}}}")

    assert said in found


@pytest.mark.parametrize("request_price", [None, 0, 10**9])
def test_a_default_price_survives_an_export(request_price: int | None) -> None:
    GatewaySettings.objects.create(
        pk=1, default_input_price=1, default_output_price=0, default_request_price=request_price
    )

    written = export_text()

    assert import_text(written).changes == []
    GatewaySettings.objects.update(default_input_price=None, default_output_price=None, default_request_price=None)
    assert "none" in export_text()

"""The price catalogue: exact figures or none, what is left out is said, and nothing comes from the network."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)

from billing import catalogue
from billing.catalogue import BEGINNING, CataloguePrice, prices_at, prices_of_model
from providers.adapters.registry import adapter_names, get_adapter

URL = "https://api.acme.example/v1"


def model(name: str, **prices: Any) -> ModelInfo:
    return ModelInfo(id=name, match=ClauseEquals(equals=name), prices=ModelPrice(**prices))


def listed(
    monkeypatch: pytest.MonkeyPatch, *models: ModelInfo, others: tuple[Provider, ...] = (), **fields: Any
) -> None:
    """Put a provider with these models in place of the catalogue."""
    acme = Provider(id="acme", name="Acme", api_pattern=r"https://api\.acme\.example", models=list(models), **fields)
    monkeypatch.setattr(catalogue, "_providers", lambda: [acme, *others])


def only(monkeypatch: pytest.MonkeyPatch, item: ModelInfo) -> CataloguePrice:
    listed(monkeypatch, item)
    found = prices_at(URL)
    assert len(found) == 1
    return found[0]


def test_figures_are_exact_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    price = only(
        monkeypatch,
        model(
            "m",
            input_mtok=Decimal("0.15"),
            cache_read_mtok=Decimal("0.075"),
            cache_write_mtok=Decimal("0.1875"),
            cache_write_1h_mtok=Decimal("0.3"),
            input_audio_mtok=Decimal(1),
            input_image_mtok=Decimal(2),
            output_mtok=Decimal("0.6"),
            output_reasoning_mtok=Decimal("0.7"),
            output_audio_mtok=Decimal(3),
            requests_kcount=Decimal(5),
        ),
    )

    assert price.figures == {
        "input": 150_000,
        "cache_read": 75_000,
        "cache_write_5m": 187_500,
        "cache_write_1h": 300_000,
        "audio_input": 1_000_000,
        "image_input": 2_000_000,
        "output": 600_000,
        "reasoning": 700_000,
        "audio_output": 3_000_000,
        "request": 5_000_000_000,
    }
    assert (price.model, price.effective_from) == ("m", BEGINNING)


def test_what_is_not_listed_is_absent_and_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = only(monkeypatch, model("m", input_mtok=Decimal(1))).figures

    assert figures["cache_read"] is None
    assert figures["reasoning"] is None
    assert figures["output"] == 0


def test_a_figure_with_more_than_six_decimals_drops_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, model("m", input_mtok=Decimal("0.0000001"), output_mtok=Decimal(1)))

    assert prices_at(URL) == []


def test_of_tiers_the_lowest_is_taken_and_the_source_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = TieredPrices(base=Decimal(2), tiers=[Tier(start=200_000, price=Decimal(4))])

    price = only(monkeypatch, model("m", input_mtok=tiers, output_mtok=Decimal(1)))

    assert price.figures["input"] == 2_000_000
    assert price.source == f"{catalogue.source()}, without dearer tiers"
    assert catalogue.source().startswith("genai-prices 0.2.")


def test_extras_without_a_column_are_named_in_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {"web_searches_kcount": Decimal(10), "cache_audio_read_mtok": Decimal(1)}

    price = only(monkeypatch, model("m", input_mtok=Decimal(1), **extras))

    assert price.source.endswith("without cached audio and searches")
    assert len(price.source) <= 100


@pytest.mark.parametrize(
    "prices", [{}, {"input_mchars": Decimal(1)}, {"input_mtok": Decimal(1), "output_image_mtok": Decimal(1)}]
)
def test_what_is_not_priced_by_tokens_alone_is_left_out(
    monkeypatch: pytest.MonkeyPatch, prices: dict[str, Decimal]
) -> None:
    listed(monkeypatch, model("m", **prices))

    assert prices_at(URL) == []


@pytest.mark.parametrize("name", ["acme-tts", "whisper-audio", "a/realtime-1", "image_gen", "big:free", "ft-acme-"])
def test_models_that_neither_chat_nor_embed_are_left_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    listed(monkeypatch, model(name, input_mtok=Decimal(1)))

    assert prices_at(URL) == []


def test_deprecated_models_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    old = model("m", input_mtok=Decimal(1))
    old.deprecated = True
    listed(monkeypatch, old)

    assert prices_at(URL) == []


def test_models_of_another_provider_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Provider(id="other", name="Other", api_pattern="x", model_match=ClauseEquals(equals="guest"))
    guest, own = model("guest", input_mtok=Decimal(1)), model("own", input_mtok=Decimal(1))
    listed(monkeypatch, guest, own, others=(other,), model_match=ClauseEquals(equals="own"))

    assert [price.model for price in prices_at(URL)] == ["own"]


def test_prices_hold_from_their_first_day(monkeypatch: pytest.MonkeyPatch) -> None:
    dated = model("m")
    dated.prices = [
        ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1))),
        ConditionalPrice(StartDateConstraint(date(2027, 1, 1)), prices=ModelPrice(input_mtok=Decimal(2))),
    ]
    listed(monkeypatch, dated)

    assert [(price.effective_from, price.figures["input"]) for price in prices_at(URL)] == [
        (BEGINNING, 1_000_000),
        (datetime(2027, 1, 1, tzinfo=UTC), 2_000_000),
    ]


def test_a_name_is_spelt_as_requests_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spellings = ClauseOr(or_=[ClauseEquals(equals="ACME-1"), ClauseEquals(equals="acme-1")])
    listed(monkeypatch, ModelInfo(id="ACME-1", match=spellings, prices=ModelPrice(input_mtok=Decimal(1))))

    assert [price.model for price in prices_at(URL)] == ["acme-1"]


def test_a_model_is_found_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ClauseOr(or_=[ClauseEquals(equals="m"), ClauseEquals(equals="m-2026-01-01")])
    listed(monkeypatch, ModelInfo(id="m", match=names, prices=ModelPrice(input_mtok=Decimal(1))))

    assert [price.model for price in prices_of_model(URL, "m-2026-01-01")] == ["m-2026-01-01"]
    assert prices_of_model(URL, "unknown") == []


def test_an_address_that_is_not_listed_has_no_prices() -> None:
    assert prices_at("https://api.nowhere.example/v1") == []
    assert prices_of_model("https://api.nowhere.example/v1", "m") == []


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini", "mistral", "groq", "xai", "zhipu"])
def test_the_shipped_catalogue_is_exact_for(name: str) -> None:
    """Each figure is the listed decimal, digit for digit."""
    from genai_prices.data import providers

    base_url = get_adapter(name).base_url
    source = next(item for item in providers if re.match(item.api_pattern, base_url))
    plain = {
        item.id.lower(): item.prices
        for item in source.models
        if isinstance(item.prices, ModelPrice) and isinstance(item.prices.input_mtok, Decimal)
    }
    compared = [(price, plain[price.model.lower()]) for price in prices_at(base_url) if price.model.lower() in plain]

    assert len(compared) > 3
    for price, listed_price in compared:
        assert Decimal(price.figures["input"] or 0) / 1_000_000 == listed_price.input_mtok
        assert Decimal(price.figures["output"] or 0) / 1_000_000 == (listed_price.output_mtok or 0)


def test_the_catalogue_names_no_provider() -> None:
    """Which models a provider has is found by its address."""
    code = Path(catalogue.__file__).read_text(encoding="utf-8").lower()

    assert [name for name in adapter_names() if f'"{name}"' in code] == []


def test_the_catalogue_is_not_loaded_with_the_gateway() -> None:
    """It takes most of a second to import, which no ordinary start may pay."""
    code = "import billing.catalogue, sys; sys.exit('genai_prices' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        pytest.fail("The catalogue opened a socket.")

    monkeypatch.setattr(socket, "socket", refuse)

    assert prices_at(get_adapter("openai").base_url)

"""What is not counted in tokens: exact prices by second, character, image and search."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from billing.models import UsageRecord
from billing.money import PICO_PER_USD, MoneyError
from billing.price_models import Price
from billing.pricing import PriceVersion, UnitPrice, cost, dearest, dearest_units, price_of_unit, units_cost
from billing.unit_prices import (
    MEASURES,
    read_unit_price,
    read_units,
    unit_prices,
    units_described,
    units_in_usd,
    validate_units,
)
from billing.usage_selectors import token_costs, unit_costs
from providers.adapters.types import Units, Usage

IMAGES = (
    UnitPrice("image", 40),
    UnitPrice("image:high", 80),
    UnitPrice("image:1024x1024", 50),
    UnitPrice("image:high:1024x1536", 120),
)


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("image", 40),
        ("image:low", 40),
        ("image:high", 80),
        ("image:high:1024x1024", 80),
        ("image:low:1024x1024", 50),
        ("image:high:1024x1536", 120),
    ],
)
def test_the_most_particular_price_of_an_image_holds(name: str, price: int) -> None:
    found = price_of_unit(IMAGES, name)

    assert found is not None
    assert found.pico_usd == price


def test_an_image_of_an_unknown_quality_is_never_free() -> None:
    assert units_cost(IMAGES[1:], (("image:medium", 2),)) == 240
    assert units_cost(IMAGES, (("image:auto", 1),)) == 40
    assert units_cost((), (("image", 5),)) == 0


@pytest.mark.parametrize(
    ("units", "pico_usd"),
    [({"page": "0.001"}, 4 * 10**9), ({"page": "0.001", "page:annotated": "0.003"}, 6 * 10**9)],
    ids=["one price", "two"],
)
def test_an_annotated_page_costs_what_a_page_does_unless_it_has_its_own_price(
    units: dict[str, str], pico_usd: int
) -> None:
    prices = unit_prices(read_units(units))

    assert units_cost(prices, (("page", 3), ("page:annotated", 1))) == pico_usd


def test_a_minute_of_sound_at_a_price_by_the_minute_costs_that_price() -> None:
    by_minute = unit_prices(read_units({"minute": "0.006"}))
    by_second = unit_prices(read_units({"second": "0.0001"}))
    by_hour = unit_prices(read_units({"hour": "0.111"}))

    assert units_cost(by_minute, (("millisecond", 60_000),)) == 6_000_000_000
    assert units_cost(by_second, (("millisecond", 60_000),)) == 6_000_000_000
    assert units_cost(by_hour, (("millisecond", 3_600_000),)) == 111_000_000_000
    assert units_cost(by_hour, (("millisecond", 1),)) == 30_833
    assert units_cost(by_minute, (("millisecond", 1),)) == 100_000


@given(st.sampled_from(sorted(MEASURES)), st.integers(0, 10**12), st.integers(0, 10**9))
def test_the_cost_is_within_half_a_pico_dollar_of_the_truth(name: str, pico: int, amount: int) -> None:
    measure, per = MEASURES[name]

    charged = units_cost(unit_prices({name: pico}), ((measure, amount),))

    assert abs(Fraction(pico * amount, per) - charged) <= Fraction(1, 2)
    if pico * amount % per == 0:
        assert charged == pico * amount // per


@given(st.lists(st.sampled_from(["image", "image:high", "image:low:256x256"]), min_size=1), st.integers(0, 9))
def test_no_quality_costs_more_than_the_bound(names: list[str], amount: int) -> None:
    units: Units = tuple((name, amount) for name in names)

    assert units_cost(IMAGES, units) <= dearest_units(IMAGES, units)


def test_units_come_on_top_of_tokens() -> None:
    prices = unit_prices({"search": PICO_PER_USD // 100})
    price = PriceVersion(1, 0.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, request=5, units=prices)

    assert cost(price, Usage(input=10)) == 15
    assert cost(price, Usage(input=10, units=(("search", 3),))) == 15 + 3 * PICO_PER_USD // 100


DRAWN = PriceVersion(1, 0.0, 1, 3, 1, 1, 1, 1, 1, 3, 3, request=5, units=unit_prices({"image_token": 30, "search": 7}))


def test_tokens_of_images_cost_their_own_price_in_place_of_that_of_output() -> None:
    usage = Usage(input=10, output=1_300, units=(("search", 2), ("image_token", 1_290)))

    assert cost(DRAWN, usage) == 5 + 10 + 10 * 3 + 1_290 * 30 + 2 * 7
    assert cost(replace(DRAWN, units=()), usage) == 5 + 10 + 1_300 * 3


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_images_in_an_answer_never_cost_more_than_was_held(text: int, drawn: int) -> None:
    units = (("image_token", drawn),)

    assert cost(DRAWN, Usage(output=text + drawn, units=units)) <= dearest(
        DRAWN, input_tokens=0, output_tokens=text + drawn
    )


def test_a_bill_shows_tokens_of_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    price = Price(input=1, output=3, units={"image_token": 30})
    rows = SimpleNamespace(filter=lambda **_: SimpleNamespace(first=lambda: price))
    monkeypatch.setattr(Price, "objects", rows)
    record = UsageRecord(output=1_300, units={"image_token": 1_290}, price_id=1)

    lines = [(line.label, line.tokens) for line in token_costs(record)]

    assert lines == [("output", 10)]
    assert [(line.label, line.cost_pico_usd) for line in unit_costs(record)] == [("1,290 image_token", 1_290 * 30)]


def test_what_a_row_keeps_is_written_as_it_was_read() -> None:
    written = {"second": "0.0001", "image:hd:1024x1024": "0.08", "search": "0.01", "character": "0.000015"}

    assert units_in_usd(read_units(written)) == written
    assert units_described(read_units({"second": "0.0001", "search": "1"})) == "second 0.0001, search 1"


@pytest.mark.parametrize("name", ["seconds", "image:", "image:a:b:c", "image:HD", "", "token", "image_tokens"])
def test_what_is_no_unit_has_no_price(name: str) -> None:
    with pytest.raises(MoneyError, match="is no unit"):
        read_unit_price(name, "1")


@pytest.mark.parametrize("kept", [[], {"second": "1"}, {"second": True}, {"second": -1}, {"minute": 1, "hour": 1}])
def test_a_row_keeps_nothing_else(kept: Any) -> None:
    with pytest.raises(ValidationError):
        validate_units(kept)


def test_a_bill_names_each_unit_and_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    price = SimpleNamespace(units={"second": 100_000_000})
    rows = SimpleNamespace(filter=lambda **_: SimpleNamespace(first=lambda: price))
    monkeypatch.setattr(Price, "objects", rows)
    record = UsageRecord(units={"millisecond": 61_500, "search": 2}, price_id=1)

    lines = [(line.label, line.cost_pico_usd) for line in unit_costs(record)]

    assert lines == [("61,500 millisecond", 6_150_000_000), ("2 search", None)]
    assert unit_costs(UsageRecord()) == []

"""Money is exact: what goes in comes out, to the last pico-dollar."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import (
    MAX_LIMIT_USD,
    PICO_PER_USD,
    MoneyError,
    exact_usd,
    format_usd,
    pico_from_usd,
    pico_per_token,
    plain,
    usd,
    usd_per_million,
)

amounts = st.integers(0, MAX_LIMIT_USD * PICO_PER_USD)


@given(amounts)
def test_dollars_and_back_changes_nothing(pico: int) -> None:
    assert pico_from_usd(usd(pico)) == pico
    assert pico_from_usd(plain(usd(pico))) == pico


@given(st.one_of(amounts, amounts.map(lambda pico: -pico), st.integers(0, 10**13)))
def test_the_quick_text_of_an_amount_is_the_plain_one(pico: int) -> None:
    assert exact_usd(pico).decode() == plain(usd(pico))


@given(st.integers(0, 10**12))
def test_a_price_per_million_and_back_changes_nothing(pico: int) -> None:
    assert pico_per_token(usd_per_million(pico)) == pico
    assert pico_per_token(plain(usd_per_million(pico))) == pico


@given(st.lists(amounts, max_size=50))
def test_a_sum_of_dollars_is_the_sum_of_pico_dollars(parts: list[int]) -> None:
    assert pico_from_usd(sum((usd(part) for part in parts), Decimal(0))) == sum(parts)


@given(amounts)
def test_plain_text_is_short_and_exact(pico: int) -> None:
    text = plain(usd(pico))

    assert Decimal(text) == usd(pico)
    assert "E" not in text
    assert "." not in text or not text.endswith(("0", "."))


@pytest.mark.parametrize("text", ["0.0000001", "1.1234567"])
def test_a_price_with_more_than_six_decimals_is_refused(text: str) -> None:
    with pytest.raises(MoneyError, match="more than 6 decimals"):
        pico_per_token(text)


@pytest.mark.parametrize("text", ["", "free", "NaN", "Infinity", "1,5"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError, match="is not an amount"):
        pico_from_usd(text)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(MoneyError, match="negative"):
        pico_per_token("-1")


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (123_456, "$0.0000001235"),
        (PICO_PER_USD, "$1.00"),
        (1234 * PICO_PER_USD + PICO_PER_USD // 2, "$1,234.50"),
        (-PICO_PER_USD // 4, "-$0.25"),
    ],
)
def test_people_see_cents_or_four_digits(pico: int, text: str) -> None:
    assert format_usd(pico) == text

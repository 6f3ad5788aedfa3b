"""Prices of what is not counted in tokens: how they are written, kept in rows, and read into the hot path.

A row keeps pico-dollars by the name that was written: `second`, `character`, `image`, `image:high`, `search`, `image_token`, `page`. What is
measured has a name of its own where prices are quoted by more than the smallest unit: sound is counted in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from django.core.exceptions import ValidationError

from billing.money import MoneyError, pico_from_usd, plain, usd
from billing.pricing import UnitPrice

MEASURES = {
    "second": ("millisecond", 1_000),
    "minute": ("millisecond", 60_000),
    "hour": ("millisecond", 3_600_000),
    "character": ("character", 1),
    "image": ("image", 1),
    "search": ("search", 1),
    "image_token": ("image_token", 1),
    "page": ("page", 1),
    "page:annotated": ("page:annotated", 1),
}
"""What is counted for a price by its name, and how much of that the price is for."""
DEAREST_UNIT = 1_000 * 10**12
_DETAILED = re.compile(r"image(:[a-z0-9._-]{1,20}){1,2}")


def read_unit_price(name: str, amount: str | int | Decimal) -> int:
    """Pico-dollars for one `name`.

    Raises:
        MoneyError: there is no such unit, or that is no price of it.
    """
    if name not in MEASURES and not _DETAILED.fullmatch(name):
        raise MoneyError(
            f"{name} is no unit that has a price; there are {', '.join(MEASURES)}, and images by quality and size such "
            "as image:high or image:high:1024x1024"
        )
    pico = pico_from_usd(amount)
    if not 0 <= pico <= DEAREST_UNIT:
        raise MoneyError(f"{amount} is {'negative' if pico < 0 else 'surely a slip: more than $1,000 for one'}")
    return pico


def check_units(names: Mapping[str, object]) -> None:
    """Raises MoneyError: two prices are for the same."""
    timed = [name for name in names if MEASURES.get(name, ("", 1))[0] == "millisecond"]
    if len(timed) > 1:
        raise MoneyError(f"sound has one price; {' and '.join(sorted(timed))} are two")


def read_units(prices: Mapping[str, str | int | Decimal]) -> dict[str, int]:
    """All unit prices of a row, from what was written in dollars.

    Raises:
        MoneyError: one of them is wrong.
    """
    check_units(prices)
    return {name: read_unit_price(name, amount) for name, amount in prices.items()}


def units_in_usd(units: Mapping[str, int]) -> dict[str, str]:
    """What a row keeps, as people write it."""
    return {name: plain(usd(pico)) for name, pico in units.items()}


def unit_prices(units: Mapping[str, int]) -> tuple[UnitPrice, ...]:
    """What a row keeps, for arithmetic."""
    return tuple(UnitPrice(*_measured(name, pico)) for name, pico in units.items())


def _measured(name: str, pico: int) -> tuple[str, int, int]:
    measure, per = MEASURES.get(name, (name, 1))
    return measure, pico, per


def units_described(units: Mapping[str, int]) -> str:
    """`second 0.0001, character 0.000015`, in dollars for one."""
    return ", ".join(f"{name} {amount}" for name, amount in units_in_usd(units).items())


def _check_kept(name: str, pico: object) -> None:
    if isinstance(pico, bool) or not isinstance(pico, int):
        raise MoneyError(f"the price of {name} is no whole number of pico-dollars")
    read_unit_price(name, usd(pico))


def validate_units(units: object) -> None:
    """Raises ValidationError for what is no prices of units, in pico-dollars."""
    if not isinstance(units, dict):
        raise ValidationError("Unit prices are written by unit, such as second.")
    try:
        check_units(units)
        for name, pico in units.items():
            _check_kept(name, pico)
    except MoneyError as error:
        raise ValidationError(f"{error}.") from None

"""Money as integers: pico-dollars (10⁻¹² USD). No Django, no floats.

A price of $1 per million tokens is 1,000,000 pico-dollars per token, so that six decimals per million are exact.
Rounding happens in display alone.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

PICO_PER_USD = 10**12
PICO_PER_TOKEN_AT_ONE_USD_PER_MILLION = 10**6
MAX_LIMIT_USD = 4_000_000
"""Largest budget: its pico-dollars fit in a signed 64-bit integer with room to spare."""


class MoneyError(ValueError):
    """An amount that cannot be represented exactly. The message says why."""


def _decimal(value: str | int | Decimal) -> Decimal:
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        raise MoneyError(f"{value!r} is not an amount; write one such as 0.15") from None
    if not amount.is_finite():
        raise MoneyError(f"{value!r} is not an amount; write one such as 0.15")
    return amount


def _exact(amount: Decimal, factor: int, decimals: int) -> int:
    scaled = amount * factor
    if scaled != scaled.to_integral_value():
        raise MoneyError(f"{amount} has more than {decimals} decimals")
    return int(scaled)


def pico_from_usd(value: str | int | Decimal) -> int:
    """Dollars to pico-dollars, exactly (at most 12 decimals)."""
    return _exact(_decimal(value), PICO_PER_USD, 12)


def pico_per_token(usd_per_million: str | int | Decimal) -> int:
    """Dollars per million tokens to pico-dollars per token, exactly (at most 6 decimals)."""
    amount = _decimal(usd_per_million)
    if amount < 0:
        raise MoneyError(f"{amount} is negative")
    return _exact(amount, PICO_PER_TOKEN_AT_ONE_USD_PER_MILLION, 6)


def usd(pico: int) -> Decimal:
    """Pico-dollars as exact dollars."""
    return Decimal(pico).scaleb(-12)


def usd_per_million(pico: int) -> Decimal:
    """Pico-dollars per token as exact dollars per million tokens."""
    return Decimal(pico).scaleb(-6)


def plain(amount: Decimal) -> str:
    """The shortest exact decimal text: `0.15`, never `1.5E-1` and never trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact_usd(pico: int) -> bytes:
    """`plain(usd(pico))` in bytes, for headers: without a Decimal it costs a third."""
    whole, rest = divmod(abs(pico), PICO_PER_USD)
    text = b"%d.%012d" % (whole, rest) if rest else b"%d" % whole
    return (b"-" if pico < 0 else b"") + (text.rstrip(b"0") if rest else text)


def format_usd(pico: int) -> str:
    """Dollars for people: cents for amounts of a dollar and more, four significant digits below."""
    amount = usd(pico)
    if pico == 0:
        return "$0.00"
    sign = "-" if amount < 0 else ""
    size = abs(amount)
    if size >= 1:
        return f"{sign}${size:,.2f}"
    digits = min(12, 3 - size.adjusted())
    return f"{sign}${plain(round(size, digits))}"

"""Template filters: `dashboard.formats` and `billing.money`, by the same names."""

from __future__ import annotations

from django import template

from billing.money import format_usd, plain, usd, usd_per_million
from dashboard import formats

register = template.Library()

register.filter("count", formats.count)
register.filter("duration", formats.duration)
register.filter("share", formats.share)
register.filter("usd", format_usd)


@register.filter
def exact_usd(pico: int) -> str:
    """Every decimal that the ledger has."""
    return f"${plain(usd(pico))}"


@register.filter
def per_million(pico: int) -> str:
    """A price per token as people quote it: dollars per million tokens."""
    return f"${plain(usd_per_million(pico))}"

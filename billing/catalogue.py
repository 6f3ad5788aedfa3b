"""The price catalogue: what providers list, from the data that ships with genai-prices. Never from the network.

What cannot be said in our columns is left out and named in `source`, and a figure that is not exact to six decimals per
million tokens drops the model: a price that is a little wrong is worse than none, for unpriced models are flagged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import Any

from billing.money import MoneyError, pico_from_usd, pico_per_token

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""From when a price holds whose first day the catalogue does not tell."""

_COLUMNS = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
}
_PER_THOUSAND_REQUESTS = "requests_kcount"
_APART = {
    "web_searches_kcount": "searches",
    "storage_searches_kcount": "searches",
    "cache_audio_read_mtok": "cached audio",
    "cache_image_read_mtok": "cached images",
}
"""Extras that a chat may cause and that have no column yet."""

_OTHER_USES = frozenset(
    {"audio", "image", "live", "moderation", "ocr", "realtime", "speech", "transcribe", "translate", "tts", "voice"}
)
"""Words in the names of models that neither chat nor embed. The catalogue does not tell what a model is for."""


@dataclass(frozen=True, slots=True)
class CataloguePrice:
    """What a model costs from a moment on, by column of `Price`: pico-dollars per token, `request` per request."""

    model: str
    effective_from: datetime
    figures: dict[str, int | None]
    source: str


def prices_at(base_url: str) -> list[CataloguePrice]:
    """Every exact price of the chat and embedding models that the provider at this address offers, sorted by model."""
    provider = _provider_at(base_url)
    if provider is None:
        return []
    found = [price for model in provider.models if _is_offered(provider, model) for price in _prices_of(model)]
    return sorted(found, key=lambda price: (price.model, price.effective_from))


def prices_of_model(base_url: str, name: str) -> list[CataloguePrice]:
    """The prices of one model by any name that the provider knows it under; none if it is not in the catalogue."""
    provider = _provider_at(base_url)
    model = provider.find_model(name) if provider is not None else None
    return [] if model is None else list(_prices_of(model, name=name))


@cache
def _providers() -> list[Any]:
    # Imported late: it takes most of a second, which only seeding and price updates should pay.
    from genai_prices.data import providers

    return list(providers)


@cache
def source() -> str:
    return f"genai-prices {version('genai-prices')}"


def _provider_at(base_url: str) -> Any | None:
    """The provider whose address this is. Addresses decide, so that no provider is named here."""
    return next((provider for provider in _providers() if re.match(provider.api_pattern, base_url)), None)


def _is_offered(provider: Any, model: Any) -> bool:
    # `name:variant` is how resellers and fine-tunings are listed; a name that ends in a sign is the start of several.
    if model.deprecated or ":" in model.id or not model.id[-1].isalnum():
        return False
    if _OTHER_USES & set(re.split(r"[-_./]", model.id.lower())):
        return False
    return not _belongs_to_another(provider, model.id)


def _belongs_to_another(provider: Any, name: str) -> bool:
    """Some lists hold models that the provider serves at another address, in another protocol."""
    if provider.model_match is None or provider.model_match.is_match(name):
        return False
    return any(other.model_match is not None and other.model_match.is_match(name) for other in _providers())


def _prices_of(model: Any, *, name: str = "") -> Iterator[CataloguePrice]:
    for effective_from, prices in _by_date(model):
        converted = _figures({key: value for key, value in vars(prices).items() if value is not None})
        if converted is not None:
            figures, remarks = converted
            yield CataloguePrice(name or _spelling(model), effective_from, figures, _source(remarks))


def _by_date(model: Any) -> Iterator[tuple[datetime, Any]]:
    """The prices from each first day on. Prices for hours of the day are left out: the list price holds all day."""
    if not isinstance(model.prices, list):
        yield BEGINNING, model.prices
        return
    for conditional in model.prices:
        first_day = getattr(conditional.constraint, "start_date", None)
        if conditional.constraint is None:
            yield BEGINNING, conditional.prices
        elif first_day is not None:
            yield datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC), conditional.prices


def _figures(listed: dict[str, Any]) -> tuple[dict[str, int | None], set[str]] | None:
    """The figures by column and what they leave out, or None where they would be wrong."""
    if "input_mtok" not in listed or listed.keys() - _COLUMNS.keys() - _APART.keys() - {_PER_THOUSAND_REQUESTS}:
        return None
    remarks = {_APART[key] for key in listed.keys() & _APART.keys()}
    figures: dict[str, int | None] = dict.fromkeys(_COLUMNS.values()) | {"output": 0, "request": 0}
    try:
        for key in listed.keys() & _COLUMNS.keys():
            figures[_COLUMNS[key]] = pico_per_token(_base(listed[key], remarks))
        if _PER_THOUSAND_REQUESTS in listed:
            figures["request"] = pico_from_usd(_base(listed[_PER_THOUSAND_REQUESTS], remarks) / 1000)
    except MoneyError:
        return None
    return figures, remarks


def _base(value: Any, remarks: set[str]) -> Decimal:
    """The figure of the lowest tier: how long a prompt is cannot be said in a price row yet."""
    if isinstance(value, Decimal):
        return value
    remarks.add("dearer tiers")
    return Decimal(value.base)


def _source(remarks: set[str]) -> str:
    return f"{source()}, without {' and '.join(sorted(remarks))}" if remarks else source()


def _spelling(model: Any) -> str:
    """The model's name as requests write it: in lower case where the catalogue knows it so."""
    clauses = getattr(model.match, "or_", [model.match])
    spellings = {getattr(clause, "equals", "") for clause in clauses}
    return str(model.id.lower() if model.id.lower() in spellings else model.id)


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """What the catalogue knows of a model besides its prices."""

    context_window: int | None
    reasoning: bool | None
    """None: it does not tell."""


def model_at(base_url: str, name: str) -> CatalogueModel | None:
    """A model by any name that the provider at this address knows it under; None: it is not in the catalogue."""
    provider = _provider_at(base_url)
    model = provider.find_model(name) if provider is not None else None
    if model is None:
        return None
    thinks = any(getattr(prices, "output_reasoning_mtok", None) is not None for _, prices in _by_date(model))
    return CatalogueModel(model.context_window or None, reasoning=True if thinks else None)

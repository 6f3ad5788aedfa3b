"""Prices: exact figures in USD per million tokens, each from a date on."""

from __future__ import annotations

from datetime import UTC, datetime

from billing.models import TOKEN_BUCKETS
from billing.money import MoneyError, pico_from_usd, pico_per_token
from billing.unit_prices import read_units
from llmgateway.config_file.entries import PriceEntry
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.validators import validate_name

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
"""From when a price without a date holds. Not today, for then every import would add a price; and later than what the
catalogue calls the beginning, so that a price of the file wins over a catalogue's."""


def read_prices(parent: FieldReader) -> list[PriceEntry]:
    """The `prices` of the file."""
    found: dict[tuple[str, str, datetime], PriceEntry] = {}
    for reader in parent.objects("prices"):
        entry = _read_price(reader)
        if entry is None:
            continue
        identity = (entry.provider, entry.model, entry.effective_from)
        if identity in found:
            first = found[identity].place.line
            reader.add("", f"This price stands on line {first} already; one of them needs another effective_from.")
        found.setdefault(identity, entry)
    return list(found.values())


def _read_price(reader: FieldReader) -> PriceEntry | None:
    provider = reader.text("provider", required=True)
    model = reader.text("model", required=True)
    if model is not None:
        check_value(model, reader.at("model"), reader.problems, validate_name)
    effective_from = reader.moment("effective_from", ALWAYS)
    figures = {
        bucket: reader.money(bucket, pico_per_token, 0 if bucket == "output" else None, required=bucket == "input")
        for bucket in TOKEN_BUCKETS
    }
    figures["request"] = reader.money("request", pico_from_usd, 0)
    source = reader.text("source")
    if source is not None and len(source) > 100:
        reader.add("source", "Keep it to 100 characters.")
    units = _read_units(reader)
    reader.finish()
    if not reader.usable or provider is None or model is None or effective_from is None:
        return None
    return PriceEntry(
        place=reader.place,
        places=reader.places(),
        provider=provider,
        model=model,
        effective_from=effective_from,
        figures=figures,
        units=units,
        source=source,
    )


def _read_units(reader: FieldReader) -> dict[str, int]:
    try:
        return read_units(reader.amounts("units"))
    except MoneyError as error:
        reader.add("units", f"{str(error)[0].upper()}{str(error)[1:]}.")
        return {}

"""Prices are history: new ones are added, and one that stands is never edited and never removed."""

from __future__ import annotations

from functools import partial

from billing.models import Price
from billing.price_figures import COLUMNS, described, figure_text, figures_of
from billing.unit_prices import units_described
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import PriceEntry
from llmgateway.config_file.report import as_text

Identity = tuple[int, str, object]


def apply_prices(session: Session) -> None:
    """Add the prices that are not there yet."""
    entries = session.document.prices
    session.providers.load(entry.provider for entry in entries)
    stored = _stored(session)
    for entry in entries:
        provider = session.providers.referred(entry.provider, entry.at("provider"), session.problems)
        if provider is None:
            continue
        row = stored.get((provider.pk, entry.model, entry.effective_from))
        if row is None:
            _add(session, Price(provider=provider, model=entry.model), entry)
        elif figures_of(row) == entry.figures and row.units == entry.units:
            session.report.unchanged += 1
        else:
            session.problems.add(
                entry.place,
                f"Prices are never edited, for bills refer to them: {row} already says {_described(row)}. "
                "Write the new figures with a later effective_from; both then stand.",
            )


def _stored(session: Session) -> dict[Identity, Price]:
    names = {entry.provider for entry in session.document.prices}
    rows = Price.objects.filter(provider__name__in=names).select_related("provider")
    return {(row.provider_id, row.model, row.effective_from): row for row in rows}


def _add(session: Session, row: Price, entry: PriceEntry) -> None:
    wanted: dict[str, object] = {
        "effective_from": entry.effective_from,
        **entry.figures,
        "units": entry.units,
        "source": entry.source if entry.source is not None else "configuration file",
    }
    show = {column: partial(_shown, column) for column in COLUMNS} | {"units": _shown_units}
    session.put(row, "price", f"{row.provider.name}/{row.model}", entry, wanted, show=show)


def _described(row: Price) -> str:
    units = f", units: {units_described(row.units)}" if row.units else ""
    return described(figures_of(row)) + units


def _shown_units(value: object) -> str:
    return units_described(value) if isinstance(value, dict) and value else as_text(None)


def _shown(column: str, value: object) -> str:
    return figure_text(column, value) if isinstance(value, int) else as_text(value)

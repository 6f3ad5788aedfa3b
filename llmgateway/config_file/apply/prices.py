"""Prices are history: new ones are added, and one that stands is never edited and never removed."""

from __future__ import annotations

from billing.models import TOKEN_BUCKETS, Price
from billing.money import plain, usd, usd_per_million
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import PriceEntry
from llmgateway.config_file.report import as_text

Figures = dict[str, int | None]
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
        elif figures_of(row) == entry.figures:
            session.report.unchanged += 1
        else:
            session.problems.add(
                entry.place,
                f"Prices are never edited, for bills refer to them: {row} already says {described(figures_of(row))}. "
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
        "source": entry.source if entry.source is not None else "configuration file",
    }
    show = dict.fromkeys(TOKEN_BUCKETS, _per_million) | {"request": _per_request}
    session.put(row, "price", f"{row.provider.name}/{row.model}", entry, wanted, show=show)


def figures_of(row: Price) -> Figures:
    """What a row says, by column."""
    return {column: getattr(row, column) for column in (*TOKEN_BUCKETS, "request")}


def described(figures: Figures) -> str:
    """`input 0.15, output 0.6`."""
    return ", ".join(
        f"{column} {_per_request(figure) if column == 'request' else _per_million(figure)}"
        for column, figure in figures.items()
        if figure is not None and (figure or column in {"input", "output"})
    )


def _per_million(value: object) -> str:
    return plain(usd_per_million(value)) if isinstance(value, int) else as_text(value)


def _per_request(value: object) -> str:
    return plain(usd(value)) if isinstance(value, int) else as_text(value)

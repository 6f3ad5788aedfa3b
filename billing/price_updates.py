"""What the catalogue says that the price rows do not, and how it is taken over: as new rows, never as edits.

Only prices that came from the catalogue are kept up to date. A price that somebody entered is a contract of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import transaction
from django.utils import timezone

from billing.catalogue import CataloguePrice, prices_of_model
from billing.models import Price
from billing.price_figures import described, difference, figures_of
from providers.adapters.registry import get_adapter

CATALOGUE_SOURCE = "genai-prices"


@dataclass(frozen=True, slots=True)
class PriceUpdate:
    """One row that would be added. `old` is the row in force until then; none: the model has no price."""

    row: Price
    old: Price | None

    def __str__(self) -> str:
        name = f"{self.row.provider}/{self.row.model} from {self.row.effective_from:%Y-%m-%d %H:%M}"
        if self.old is None:
            return f"+ {name}: {described(figures_of(self.row))}"
        return f"~ {name}: {difference(figures_of(self.old), figures_of(self.row))}"


def price_updates(now: datetime | None = None) -> list[PriceUpdate]:
    """The rows that would bring the prices of all models in use up to the catalogue."""
    moment = (now or timezone.now()).replace(microsecond=0)
    stored: dict[tuple[int, str], list[Price]] = {}
    for row in Price.objects.select_related("provider").order_by("effective_from"):
        stored.setdefault((row.provider_id, row.model), []).append(row)
    return [
        update
        for provider, model in _models_in_use()
        for update in _updates_of(provider, model, stored.get((provider.pk, model), []), moment)
    ]


@transaction.atomic
def apply_price_updates(updates: Iterable[PriceUpdate]) -> None:
    """Save the new rows."""
    for update in updates:
        update.row.full_clean()
        update.row.save()


# Models of other apps are named by string: billing must not import them.
def _models_in_use() -> Iterator[tuple[Any, str]]:
    deployments = apps.get_model("providers", "Deployment").objects.select_related("provider")
    pairs = {(row.provider_id, row.model): row.provider for row in deployments}
    for (_, model), provider in sorted(pairs.items(), key=lambda item: (item[1].name, item[0][1])):
        yield provider, model


def _updates_of(provider: Any, model: str, rows: list[Price], now: datetime) -> Iterator[PriceUpdate]:
    listed = prices_of_model(provider.base_url or get_adapter(provider.adapter).base_url, model)
    in_force = next((row for row in reversed(rows) if row.effective_from <= now), None)
    if not listed or (in_force is not None and not in_force.source.startswith(CATALOGUE_SOURCE)):
        return
    current = [price for price in listed if price.effective_from <= now]
    newest = in_force
    if current and (in_force is None or figures_of(in_force) != current[-1].figures):
        newest = _row(provider, current[-1], now, in_force)
        yield PriceUpdate(newest, in_force)
    taken = {row.effective_from for row in rows}
    for price in listed:
        if price.effective_from > now and price.effective_from not in taken:
            row = _row(provider, price, price.effective_from, newest)
            yield PriceUpdate(row, newest)
            newest = row


def _row(provider: Any, price: CataloguePrice, effective_from: datetime, former: Price | None) -> Price:
    return Price(
        provider=provider,
        model=price.model,
        effective_from=effective_from,
        source=price.source,
        # The catalogue knows no unit prices; those that somebody entered stay.
        units=former.units if former is not None else {},
        **price.figures,
    )

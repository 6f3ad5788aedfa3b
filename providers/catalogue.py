"""What models can do, seeded from the catalogue that is installed with the gateway. Never from the network.

An entry that somebody wrote or changed is theirs and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from billing.catalogue import model_at, source
from providers.adapters.registry import get_adapter
from providers.models import CatalogueEntry, Deployment

SEEDED = "genai-prices"
"""How the source of entries begins that nobody wrote."""


def catalogue_updates() -> list[CatalogueEntry]:
    """The entries that would bring those of all models in use up to the catalogue, not saved yet."""
    stored = {(entry.provider_id, entry.model): entry for entry in CatalogueEntry.objects.select_related("provider")}
    in_use = {
        (row.provider_id, row.model): row.provider
        for row in Deployment.objects.select_related("provider").order_by("provider__name", "model")
    }
    updates = []
    for place, provider in in_use.items():
        entry = stored.get(place) or CatalogueEntry(provider=provider, model=place[1], source=source())
        if entry.source.startswith(SEEDED) and _brought_up_to_date(entry):
            updates.append(entry)
    return updates


@transaction.atomic
def apply_catalogue_updates(updates: Iterable[CatalogueEntry]) -> None:
    for entry in updates:
        entry.full_clean()
        entry.save()


def _brought_up_to_date(entry: CatalogueEntry) -> bool:
    """Write into the entry what the catalogue says; whether anything is new."""
    provider = entry.provider
    listed = model_at(provider.base_url or get_adapter(provider.adapter).base_url, entry.model)
    if listed is None or (listed.context_window is None and listed.reasoning is None):
        return False
    said = entry.context_window, entry.reasoning
    entry.context_window, entry.reasoning = listed.context_window, listed.reasoning
    entry.source = source()
    return said != (entry.context_window, entry.reasoning)

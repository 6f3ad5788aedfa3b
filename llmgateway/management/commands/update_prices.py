"""`./gateway update-prices`: compare prices with the catalogue that ships with the gateway, and take it over."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from billing.catalogue import source
from billing.price_updates import apply_price_updates, price_updates
from llmgateway.audit import acting_as
from providers.catalogue import apply_catalogue_updates, catalogue_updates


class Command(BaseCommand):
    help = "Show where the price catalogue differs from the prices of the models in use. Prices you entered are kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--apply", action="store_true", help="add what differs as new prices, in force from now on")

    def handle(self, *args: Any, **options: Any) -> None:
        self._update_catalogue(apply=options["apply"])
        updates = price_updates()
        for update in updates:
            self.stdout.write(str(update))
        if not updates:
            self.stdout.write(f"All prices are as {source()} lists them, or your own.")
        elif options["apply"]:
            with acting_as(source="update-prices"):
                apply_price_updates(updates)
            self.stdout.write(f"Added {len(updates)} prices. Those before stay, for bills refer to them.")
        else:
            self.stdout.write(f"{len(updates)} prices differ from {source()}; `--apply` adds them as new ones.")

    def _update_catalogue(self, *, apply: bool) -> None:
        """What the models in use can do."""
        entries = catalogue_updates()
        for entry in entries:
            self.stdout.write(f"{'~' if entry.pk else '+'} {entry}: context window {entry.context_window or 'unknown'}")
        if apply and entries:
            with acting_as(source="update-prices"):
                apply_catalogue_updates(entries)
            self.stdout.write(f"Wrote what {len(entries)} models can do.")

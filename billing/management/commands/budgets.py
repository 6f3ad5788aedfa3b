"""`budgets`: what every budget's current window stands at, settled and held."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from billing.journal_files import to_json
from billing.money import format_usd
from billing.selectors import BudgetStanding, budget_standings
from llmgateway import conf


class Command(BaseCommand):
    help = "Prints each budget with what is settled and held: with --json one object per budget, otherwise a table."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="One JSON object per line.")

    def handle(self, *args: Any, **options: Any) -> None:
        standings = budget_standings(conf.conf.journal_dir)
        if not options["json"]:
            self.stdout.write(_line("name", "scope", "window", "limit", "settled", "held"))
        for standing in standings:
            self.stdout.write(to_json(standing.as_json()).decode() if options["json"] else _table_line(standing))


def _table_line(standing: BudgetStanding) -> str:
    budget = standing.budget
    amounts = (standing.limit_pico_usd, standing.settled_pico_usd, standing.held_pico_usd)
    scope = f"{standing.scope} {standing.of} {standing.subject}".strip()
    return _line(budget.name, scope, budget.window, *map(format_usd, amounts))


def _line(*cells: str) -> str:
    return "{:<20.20}  {:<28.28}  {:<6}  {:>14}  {:>14}  {:>14}".format(*cells)

"""`reconcile`: whether the sums of hours say what the ledger's rows say."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand

from billing.journal_files import to_json
from billing.management.commands.usage import moment
from billing.reconciliation import Drift, Report, reconcile

DRIFTED = 1
WIDEST = 60


class Command(BaseCommand):
    help = (
        "Compares rollups and team hours with the ledger's rows, and names what differs. "
        "Ends with 1 if something differs and was not repaired."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--since", default="31d", metavar="T", help=f"{moment.__doc__} Default: 31d.")
        parser.add_argument("--repair", action="store_true", help="Make the sums what the rows say.")
        parser.add_argument(
            "--attempts", action="store_true", help="Also compare what each row cost with its attempts. Never repaired."
        )
        parser.add_argument("--json", action="store_true", help="One JSON object per difference, and one of the whole.")

    def handle(self, *args: Any, **options: Any) -> None:
        report = reconcile(since=moment(options["since"]), repair=options["repair"], attempts=options["attempts"])
        if options["json"]:
            self._write_json(report)
        else:
            self._write_table(report)
        if report.unrepaired:
            sys.exit(DRIFTED)

    def _write_json(self, report: Report) -> None:
        for drift in report.drifts:
            self.stdout.write(to_json(asdict(drift)).decode())
        whole = {"since": report.since, "until": report.until, "drifted": report.drifted, "repaired": report.repaired}
        self.stdout.write(to_json(whole).decode())

    def _write_table(self, report: Report) -> None:
        if report.drifts:
            self.stdout.write(_line("table", "of", "figure", "stored", "ledger"))
        for drift in report.drifts:
            self.stdout.write(_drift_line(drift))
        span = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
        if not report.hours:
            self.stdout.write("There is no row of the ledger to compare with since then.")
        elif not report.drifts:
            self.stdout.write(f"Everything agrees, from {span}.")
        else:
            self.stdout.write(f"{report.drifted} rows differ, {report.repaired} of them repaired, from {span}.")
        if report.unrepaired:
            self.stdout.write("`./gateway reconcile --repair` makes rollups and team hours what the rows say.")


def _drift_line(drift: Drift) -> str:
    return _line(drift.table, drift.name, drift.column, drift.stored, drift.expected)


def _line(*cells: str) -> str:
    short = (cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…" for cell in cells)
    return "{:<9}  {:<60}  {:<18}  {:>20}  {:>20}".format(*short)

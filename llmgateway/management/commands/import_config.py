"""`./gateway import FILE`: make the database say what a configuration file says."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from llmgateway.config_file.importing import import_file
from llmgateway.config_file.problems import ConfigFileError
from llmgateway.config_file.report import Report


class Command(BaseCommand):
    help = "Make the configuration say what a YAML file says: all of it, or nothing if anything in it is wrong."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the YAML file; docs/configuration.md describes it")
        parser.add_argument("--dry-run", action="store_true", help="show what would change and write nothing")
        parser.add_argument("--prune", action="store_true", help="also remove what the file does not name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = import_file(options["file"], dry_run=options["dry_run"], prune=options["prune"], show=self._show)
        except ConfigFileError as error:
            raise CommandError("\n".join([*error.lines, "Nothing was written."])) from error
        if options["dry_run"]:
            self.stdout.write("Dry run: nothing was written.")
        self._show_secrets(report)

    def _show(self, report: Report) -> None:
        for line in report.lines():
            self.stdout.write(line)
        self.stdout.flush()

    def _show_secrets(self, report: Report) -> None:
        if not report.secrets:
            return
        self.stdout.write("\nGenerated secrets. They are shown this once; keep them now:")
        for name, secret in report.secrets.items():
            self.stdout.write(f"  {name}: {secret}")

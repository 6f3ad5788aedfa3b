"""Prints the table of environment settings, or writes it into the documentation and `.env.example`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from llmgateway.config_file.settings_reference import (
    DOCUMENT,
    ENV_EXAMPLE,
    document_with_table,
    env_example,
    settings_table,
)


class Command(BaseCommand):
    help = "Print the table of all environment settings, as docs/configuration.md has it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--write", action="store_true", help="bring docs/configuration.md and .env.example up to date"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["write"]:
            self.stdout.write(settings_table())
            return
        DOCUMENT.write_text(document_with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
        ENV_EXAMPLE.write_text(env_example(ENV_EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
        self.stdout.write(f"Wrote {DOCUMENT.name} and {ENV_EXAMPLE.name}.")

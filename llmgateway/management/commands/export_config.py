"""`./gateway export`: the configuration as the YAML that `./gateway import` reads."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from llmgateway.config_file.export import export_text


class Command(BaseCommand):
    help = "Write the configuration as YAML. Importing it changes nothing; no secret is in it in clear."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--with-secrets-as-env",
            action="store_true",
            help="write ${PROVIDER_CREDENTIAL_API_KEY} for stored provider keys, to be set where the file is imported",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(export_text(secrets_as_variables=options["with_secrets_as_env"]), ending="")

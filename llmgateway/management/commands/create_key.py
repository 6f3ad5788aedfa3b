"""`./gateway create-key NAME --team TEAM`: a new API key, its secret printed once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from llmgateway import services
from llmgateway.audit import acting_as
from llmgateway.conf import words
from llmgateway.management.new_secrets import chosen_end, chosen_team, mistakes_told


class Command(BaseCommand):
    help = "Create an API key and print its secret, this once. Only the secret goes to standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is called, such as dev-001")
        parser.add_argument("--team", required=True, help="the team that pays for it")
        parser.add_argument(
            "--models", type=words, default=[], metavar="A,B", help="the aliases it may call; all if absent"
        )
        parser.add_argument("--user-id", default="", help="stands in usage rows when a request names no end user")
        parser.add_argument("--expires-at", default="", metavar="TIME", help="2027-01-31 or 2027-01-31T12:00:00Z")

    def handle(self, *args: Any, **options: Any) -> None:
        with mistakes_told(), acting_as(source="create-key"):
            _, secret = services.key_create(
                team=chosen_team(options["team"]),
                name=options["name"],
                user_id=options["user_id"],
                allowed_models=options["models"],
                expires_at=chosen_end(options["expires_at"]),
            )
        self.stderr.write(f"Created the key {options['name']}. Its secret is shown this once:")
        self.stdout.write(secret)

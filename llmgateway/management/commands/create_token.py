"""`./gateway create-token NAME --scopes A,B`: a new management token, its secret printed once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from llmgateway.audit import acting_as
from llmgateway.conf import words
from llmgateway.management.new_secrets import chosen_end, chosen_team, mistakes_told
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create


class Command(BaseCommand):
    help = (
        "Create a token of the management API and print its secret, this once. Only the secret goes to standard output."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the token is for, such as ci")
        parser.add_argument(
            "--scopes", type=words, required=True, metavar="A,B", help=f"what it may do: of {', '.join(SCOPES)}; or all"
        )
        parser.add_argument("--team", default="", help="the one team it may see and change; every team if absent")
        parser.add_argument("--expires-at", default="", metavar="TIME", help="2027-01-31 or 2027-01-31T12:00:00Z")

    def handle(self, *args: Any, **options: Any) -> None:
        team = chosen_team(options["team"]) if options["team"] else None
        with mistakes_told(), acting_as(source="create-token"):
            _, secret = token_create(
                name=options["name"],
                scopes=self._scopes(options["scopes"], in_one_team=team is not None),
                team=team,
                expires_at=chosen_end(options["expires_at"]),
            )
        self.stderr.write(f"Created the token {options['name']}. Its secret is shown this once:")
        self.stdout.write(secret)

    def _scopes(self, names: list[str], *, in_one_team: bool) -> list[str]:
        if names != ["all"]:
            return names
        return [scope.name for scope in SCOPES.values() if scope.in_one_team or not in_one_team]

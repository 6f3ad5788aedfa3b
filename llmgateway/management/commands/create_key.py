"""`./gateway create-key NAME --team TEAM`: a new API key, its secret printed once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from llmgateway import services
from llmgateway.audit import acting_as
from llmgateway.conf import words
from llmgateway.config_file.fields import parse_moment
from llmgateway.models import Team


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
        try:
            with acting_as(source="create-key"):
                _, secret = services.key_create(
                    team=self._team(options["team"]),
                    name=options["name"],
                    user_id=options["user_id"],
                    allowed_models=options["models"],
                    expires_at=self._expires_at(options["expires_at"]),
                )
        except ValidationError as error:
            lines = [f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()]
            raise CommandError("\n".join(lines)) from error
        self.stderr.write(f"Created the key {options['name']}. Its secret is shown this once:")
        self.stdout.write(secret)

    def _team(self, name: str) -> Team:
        team = Team.objects.filter(name=name).first()
        if team is None:
            known = ", ".join(Team.objects.order_by("name").values_list("name", flat=True)[:20])
            raise CommandError(f"There is no team {name}; " + (f"there are {known}." if known else "create one first."))
        return team

    def _expires_at(self, text: str) -> Any:
        if not text:
            return None
        try:
            return parse_moment(text)
        except ValueError as error:
            raise CommandError(f"--expires-at: {text!r} is not a date or time; write 2027-01-31.") from error

"""What the commands share that make something with a secret: its team, its end, and how mistakes are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from llmgateway.config_file.fields import parse_moment
from llmgateway.models import Team

SHOWN_TEAMS = 20


def chosen_team(name: str) -> Team:
    """Raises CommandError if there is none of this name, with those there are."""
    team = Team.objects.filter(name=name).first()
    if team is None:
        known = ", ".join(Team.objects.order_by("name").values_list("name", flat=True)[:SHOWN_TEAMS])
        raise CommandError(f"There is no team {name}; " + (f"there are {known}." if known else "create one first."))
    return team


def chosen_end(text: str) -> datetime | None:
    """What `--expires-at` says; None: nothing. Raises CommandError."""
    if not text:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise CommandError(f"--expires-at: {text!r} is not a date or time; write 2027-01-31.") from error


@contextmanager
def mistakes_told() -> Iterator[None]:
    """A line for each field that is wrong, as a CommandError."""
    try:
        yield
    except ValidationError as error:
        lines = [f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()]
        raise CommandError("\n".join(lines)) from error

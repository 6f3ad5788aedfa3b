"""The team whose figures are shown, found among those the user may see. Every page and socket asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from llmgateway.selectors import teams_of

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser, User
    from django.db.models import QuerySet


@dataclass(frozen=True, slots=True)
class ShownTeam:
    """What pages need to know of a team."""

    id: int
    name: str
    zone: ZoneInfo


def shown_teams(user: AbstractBaseUser | AnonymousUser, query: str = "") -> QuerySet[Any, tuple[int, str, str]]:
    """Rows for `team_of_row`, by name, to be cut by the caller. Somebody who is not logged in or inactive sees none."""
    teams = teams_of(cast("User", user))
    if not user.is_active:
        return teams.none().values_list("id", "name", "time_zone")
    found = teams.filter(name__icontains=query) if query else teams
    return found.order_by("name").values_list("id", "name", "time_zone")


def shown_team(user: AbstractBaseUser | AnonymousUser, **lookup: Any) -> ShownTeam | None:
    """The one team with this `name` or `id`. A foreign team and a missing one look the same: None."""
    row = shown_teams(user).filter(**lookup).first()
    return team_of_row(row) if row else None


def team_of_row(row: tuple[int, str, str]) -> ShownTeam:
    team_id, name, zone = row
    return ShownTeam(team_id, name, ZoneInfo(zone))

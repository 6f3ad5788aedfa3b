"""Teams: who pays for keys."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet

from llmgateway import services
from llmgateway.management_api.fields import Saved, within
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Writable, worded
from llmgateway.models import Team


class TeamSerializer(Saved[Team]):
    class Meta:
        model = Team
        fields = ("id", "name", "time_zone", "own_keys", "created_at")

    def write(self, row: Team, columns: dict[str, Any]) -> None:
        services.team_save(row, columns)


class TeamFilters(NameFilters):
    own_keys = django_filters.ChoiceFilter("own_keys", choices=Team.OwnKeys.choices)


@worded(
    create="Create a team.",
    change="Change what is named: the name, the time zone, whether the team may bring keys of its own.",
)
class TeamViewSet(Writable[Team]):
    """Teams. A token of one team sees this team alone."""

    serializer_class = TeamSerializer
    read_scope, write_scope = "teams:read", "teams:write"
    filterset_class = TeamFilters
    search_fields = ("name",)
    ordering_fields = ("name", "created_at", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[Team]:
        return within(Team.objects.all(), "pk", reach)

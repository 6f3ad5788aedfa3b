"""Teams: who pays for keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway import services
from llmgateway.management_api.fields import StrictModel, within
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from llmgateway.models import Team


class TeamSerializer(StrictModel[Team]):
    class Meta:
        model = Team
        fields = ("id", "name", "time_zone", "own_keys", "created_at")

    def create(self, validated_data: Mapping[str, Any]) -> Team:
        return self.update(Team(), validated_data)

    def update(self, instance: Team, validated_data: Mapping[str, Any]) -> Team:
        services.team_save(instance, validated_data)
        return instance


class TeamFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")
    own_keys = django_filters.ChoiceFilter("own_keys", choices=Team.OwnKeys.choices)


class TeamViewSet(Readable[Team]):
    """Teams. A token of one team sees this team alone."""

    serializer_class = TeamSerializer
    read_scope, write_scope = "teams:read", "teams:write"
    filterset_class = TeamFilters
    search_fields = ("name",)
    ordering_fields = ("name", "created_at", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[Team]:
        return within(Team.objects.all(), "pk", reach)

    @extend_schema(request=TeamSerializer, responses={201: TeamSerializer})
    @writes
    def create(self, request: Request) -> Response:
        """Create a team."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self.shown(serializer.save(), status.HTTP_201_CREATED)

    @extend_schema(request=TeamSerializer(partial=True), responses=TeamSerializer)
    @writes
    def partial_update(self, request: Request, /, **kwargs: Any) -> Response:
        """Change what is named: the name, the time zone, whether the team may bring keys of its own."""
        serializer = self.get_serializer(self.locked(), data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        return self.shown(serializer.save())

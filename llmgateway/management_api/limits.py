"""Rate limits of every owner, metric and period."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway import services
from llmgateway.management_api.owned import NewOwned, Owned, OwnedFilters, OwnedSerializer
from llmgateway.management_api.principals import Reach
from llmgateway.models import RateLimit


class LimitSerializer(OwnedSerializer[RateLimit]):
    summary = serializers.CharField(source="__str__", read_only=True, help_text="As errors name it.")

    class Meta:
        model = RateLimit
        fields = (
            "id", "summary", "scope", "key", "team", "provider", "deployment", "alias", "each", "model", "metric",
            "per", "amount", "burst", "starts_on", "reset_seconds", "reset_anchor", "oversize", "shadow", "enabled",
            "created_at",
        )  # fmt: skip
        # What cannot stand together the row itself knows, and says it better.
        validators: tuple[Any, ...] = ()


class NewLimitSerializer(NewOwned, LimitSerializer):
    pass


class LimitFilters(OwnedFilters):
    metric = django_filters.ChoiceFilter(choices=RateLimit.Metric.choices)
    per = django_filters.ChoiceFilter(choices=RateLimit.Period.choices)
    model = django_filters.CharFilter("model", label="The alias it counts for alone.")
    shadow = django_filters.BooleanFilter("shadow")


class LimitViewSet(Owned[RateLimit]):
    """Rate limits: how much of a metric may pass in a period."""

    serializer_class = LimitSerializer
    new_serializer_class = NewLimitSerializer
    noun = "limits"
    read_scope, write_scope = "limits:read", "limits:write"
    filterset_class = LimitFilters
    search_fields = ("key__name", "team__name", "provider__name", "deployment__name", "alias__name", "model")
    ordering_fields = ("id", "amount", "created_at", "metric")
    ordering = ("id",)

    def rows(self, reach: Reach) -> QuerySet[RateLimit]:
        limits = RateLimit.objects.select_related("key__team", "team", "provider", "deployment", "alias")
        return self.within_teams(limits, reach)

    def matching(self, word: str) -> Q:
        return super().matching(word) | Q(model__icontains=word) & ~Q(model="")

    def make(self, columns: dict[str, Any]) -> RateLimit:
        return services.limit_create(**columns)

    def change(self, row: RateLimit, columns: dict[str, Any]) -> None:
        services.limit_update(row, **columns)

    @extend_schema(request=NewLimitSerializer, responses={201: LimitSerializer})
    def create(self, request: Request) -> Response:
        """Create a limit of at most one of `key`, `team`, `provider`, `deployment` and `alias`; of none: of everyone."""
        return super().create(request)

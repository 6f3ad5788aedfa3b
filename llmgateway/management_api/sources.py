"""Key sources: where keys are looked up, and in which order."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet

from llmgateway import services
from llmgateway.management_api.fields import Saved
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from llmgateway.models import AuthSource


class SourceSerializer(Saved[AuthSource]):
    class Meta:
        model = AuthSource
        fields = ("id", "name", "kind", "path", "position", "enabled")

    def write(self, row: AuthSource, columns: dict[str, Any]) -> None:
        for name, value in columns.items():
            setattr(row, name, value)
        row.full_clean()
        services.source_save(row)


class SourceFilters(NameFilters):
    kind = django_filters.ChoiceFilter(choices=AuthSource.Kind.choices)
    enabled = django_filters.BooleanFilter("enabled")


@worded(
    create="Add a place where keys are looked up. Without any it is the database; before the first other one that becomes a "
    "source of its own, so that nobody is locked out.",
    change="Change what is named: the order by `position`, whether it is asked at all.",
    delete="Delete it. Its keys are unknown from the next request on; without any source the database is asked.",
)
class SourceViewSet(Removable[AuthSource]):
    """Places where keys are looked up. They are asked in the order of `position`, and the first that knows a key decides."""

    serializer_class = SourceSerializer
    read_scope, write_scope = "sources:read", "sources:write"
    filterset_class = SourceFilters
    search_fields = ("name",)
    ordering_fields = ("position", "name", "id")
    ordering = ("position",)

    def rows(self, reach: Reach) -> QuerySet[AuthSource]:
        return AuthSource.objects.all()

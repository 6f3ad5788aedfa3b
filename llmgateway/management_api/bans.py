"""Banned keys: callers' own ones at providers that are not sent on."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from rest_framework import serializers

from llmgateway import services
from llmgateway.management_api.fields import Saved
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from llmgateway.models import BannedKey


class BanSerializer(Saved[BannedKey]):
    digest = serializers.CharField(
        required=False, max_length=64, help_text="As rows of `/usage` have it in `own_key`, 64 characters."
    )
    key = serializers.CharField(
        required=False,
        write_only=True,
        max_length=8192,
        help_text="The key itself in place of its digest, which alone is kept.",
    )

    class Meta:
        model = BannedKey
        fields = ("id", "digest", "key", "note", "created_at")

    def write(self, row: BannedKey, columns: dict[str, Any]) -> None:
        services.ban_save(row, columns)


class BanFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    digest = django_filters.CharFilter("digest", label="The whole digest.")


@worded(
    create="Ban a key at a provider, by its digest or by itself. Within a second no caller's request brings it any more.",
    change="Change what is named.",
    delete="Let the key be brought again.",
)
class BanViewSet(Removable[BannedKey]):
    """Callers' own keys at providers that are not sent on, whoever brings them."""

    serializer_class = BanSerializer
    read_scope, write_scope = "bans:read", "bans:write"
    filterset_class = BanFilters
    search_fields = ("digest", "note")
    ordering_fields = ("created_at", "id")
    ordering = ("-created_at", "-id")

    def rows(self, reach: Reach) -> QuerySet[BannedKey]:
        return BannedKey.objects.all()

"""Network lists: addresses and networks named once, for all keys that may be used from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_filters
from django.db.models import Count, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway import services
from llmgateway.management_api.fields import StrictModel
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from llmgateway.models import NetworkList


class NetworkSerializer(StrictModel[NetworkList]):
    networks = serializers.ListField(
        child=serializers.CharField(max_length=64),
        help_text="IPv4 and IPv6 addresses or networks, such as 192.0.2.7 or 2001:db8::/32. An empty list lets nobody in.",
    )
    keys = serializers.IntegerField(
        source="key_count", read_only=True, help_text="How many keys name the list; it cannot be deleted meanwhile."
    )

    class Meta:
        model = NetworkList
        fields = ("id", "name", "networks", "keys")

    def create(self, validated_data: Mapping[str, Any]) -> NetworkList:
        return self.update(NetworkList(), validated_data)

    def update(self, instance: NetworkList, validated_data: Mapping[str, Any]) -> NetworkList:
        services.network_list_save(instance, validated_data)
        return instance


class NetworkFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")


class NetworkViewSet(Readable[NetworkList]):
    """Shared lists of addresses. Keys of any team may name them, so no token of a team writes or lists them."""

    serializer_class = NetworkSerializer
    read_scope, write_scope = "networks:read", "networks:write"
    filterset_class = NetworkFilters
    search_fields = ("name",)
    ordering_fields = ("name", "id")
    ordering = ("name",)
    volatile = ("keys",)

    def rows(self, reach: Reach) -> QuerySet[NetworkList]:
        return NetworkList.objects.annotate(key_count=Count("key_networks"))

    @extend_schema(request=NetworkSerializer, responses={201: NetworkSerializer})
    @writes
    def create(self, request: Request) -> Response:
        """Create a list of addresses. Keys are bound to it by their `network_lists`."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        row = serializer.save()
        return self.shown(self.get_queryset().get(pk=row.pk), status.HTTP_201_CREATED)

    @extend_schema(request=NetworkSerializer(partial=True), responses=NetworkSerializer)
    @writes
    def partial_update(self, request: Request, /, **kwargs: Any) -> Response:
        """Change what is named. `networks` take the place of all that are there, for every key that names the list."""
        serializer = self.get_serializer(self.locked(), data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.shown(self.get_object())

    @extend_schema(responses={204: None})
    @writes
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete it, unless a key names it: that key would be open to everybody."""
        self.locked().delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

"""Network lists: addresses and networks named once, for all keys that may be used from there."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from rest_framework import serializers

from llmgateway import services
from llmgateway.management_api.fields import Saved
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from llmgateway.models import KeyNetwork, NetworkList


class NetworkSerializer(Saved[NetworkList]):
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

    def write(self, row: NetworkList, columns: dict[str, Any]) -> None:
        services.network_list_save(row, columns)


@worded(
    create="Create a list of addresses. Keys are bound to it by their `network_lists`.",
    change="Change what is named. `networks` take the place of all that are there, for every key that names the list.",
    delete="Delete it, unless a key names it: that key would be open to everybody.",
)
class NetworkViewSet(Removable[NetworkList]):
    """Shared lists of addresses. Keys of any team may name them, so no token of a team writes or lists them."""

    serializer_class = NetworkSerializer
    read_scope, write_scope = "networks:read", "networks:write"
    filterset_class = NameFilters
    search_fields = ("name",)
    ordering_fields = ("name", "id")
    ordering = ("name",)
    volatile = ("keys",)

    def rows(self, reach: Reach) -> QuerySet[NetworkList]:
        keys = KeyNetwork.objects.filter(network_list=OuterRef("pk")).order_by().values("network_list")
        # Asked for each list of a page by itself: joined, the keys of all lists would be counted.
        return NetworkList.objects.annotate(key_count=Coalesce(Subquery(keys.values(keys=Count("pk"))), 0))

"""Teams and network lists in the admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.decorators import display

from billing.admin.budgets import TeamBudgetInline
from llmgateway.admin.limits import TeamLimitInline
from llmgateway.admin_base import GatewayAdmin, GatewayInline, LinesField, link
from llmgateway.models import ApiKey, Membership, NetworkList, Team


class MembershipInline(GatewayInline):
    model = Membership
    autocomplete_fields = ("user",)
    verbose_name_plural = "members"


@admin.register(Team)
class TeamAdmin(GatewayAdmin):
    empty_text = "A team is a group of people and keys that shares budgets and a dashboard."
    list_display = ("name", "keys", "members", "time_zone", "own_keys", "created_at")
    search_fields = ("name",)
    list_filter = ("own_keys",)
    fields = ("name", "time_zone", "own_keys", "created_at")
    readonly_fields = ("created_at",)
    inlines = (MembershipInline, TeamLimitInline, TeamBudgetInline)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        keys = (
            ApiKey.objects.filter(team=OuterRef("pk"))
            .order_by()
            .values("team")
            .annotate(Count("pk"))
            .values("pk__count")
        )
        counted = (
            super()
            .get_queryset(request)
            .annotate(member_count=Count("memberships"), key_count=Coalesce(Subquery(keys), 0))
        )
        found: QuerySet[Team] = counted.order_by("name")
        return found

    @display(description="Keys")  # type: ignore[untyped-decorator]
    def keys(self, team: Any) -> SafeString:
        url = f"{reverse('admin:llmgateway_apikey_changelist')}?team__id__exact={team.pk}"
        return link(url, f"{team.key_count} keys")

    @display(description="Members")  # type: ignore[untyped-decorator]
    def members(self, team: Any) -> int:
        count: int = team.member_count
        return count


class NetworkListForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    networks = LinesField(
        label="Addresses and networks",
        required=False,
        placeholder="192.0.2.7\n10.0.0.0/8\n2001:db8::/32",
        help_text="IPv4 and IPv6, one a line. An empty list lets nobody in.",
    )

    class Meta:
        model = NetworkList
        fields = ("name", "networks")


@admin.register(NetworkList)
class NetworkListAdmin(GatewayAdmin):
    form = NetworkListForm
    empty_text = "A list names addresses and networks once, for all keys that may be used from there."
    list_display = ("name", "size", "used_by")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[NetworkList]:
        found: QuerySet[NetworkList] = (
            super().get_queryset(request).annotate(key_count=Count("key_networks")).order_by("name")
        )
        return found

    @display(description="Networks")  # type: ignore[untyped-decorator]
    def size(self, networks: NetworkList) -> str:
        shown = ", ".join(networks.networks[:3])
        more = len(networks.networks) - 3
        return f"{shown} and {more} more" if more > 0 else shown or "none: lets nobody in"

    @display(description="Keys")  # type: ignore[untyped-decorator]
    def used_by(self, networks: Any) -> int:
        count: int = networks.key_count
        return count

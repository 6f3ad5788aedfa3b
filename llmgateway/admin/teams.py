"""Teams and network lists in the admin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, Model
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.decorators import display

from billing.admin.budgets import TeamBudgetInline
from llmgateway.admin.limits import TeamLimitInline
from llmgateway.admin_base import GatewayAdmin, GatewayInline, LinesField, link
from llmgateway.models import ApiKey, KeyNetwork, Membership, NetworkList, Team


def counts(rows: Sequence[Model], of: type[Model], column: str) -> dict[int, int]:
    """How many rows of another model refer to each of `rows`; those to which none does are left out."""
    referring = of._default_manager.filter(**{f"{column}__in": rows}).order_by()  # noqa: SLF001  # Django's documented API
    return dict(referring.values_list(column).annotate(Count("pk")))


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

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """With the keys and members of the page's teams: to count those of all teams is to read all keys."""
        page: ChangeList = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        keys, members = counts(page.result_list, ApiKey, "team"), counts(page.result_list, Membership, "team")
        for team in page.result_list:
            team.key_count, team.member_count = keys.get(team.pk, 0), members.get(team.pk, 0)
        return page

    @display(description="Keys")  # type: ignore[untyped-decorator]
    def keys(self, team: Any) -> SafeString:
        url = f"{reverse('admin:llmgateway_apikey_changelist')}?team__id__exact={team.pk}"
        return link(url, f"{team.key_count:,} key{pluralize(team.key_count)}")

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

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """With the keys of the page's lists."""
        page: ChangeList = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        keys = counts(page.result_list, KeyNetwork, "network_list")
        for networks in page.result_list:
            networks.key_count = keys.get(networks.pk, 0)
        return page

    @display(description="Networks")  # type: ignore[untyped-decorator]
    def size(self, networks: NetworkList) -> str:
        shown = ", ".join(networks.networks[:3])
        more = len(networks.networks) - 3
        return f"{shown} and {more} more" if more > 0 else shown or "none: lets nobody in"

    @display(description="Keys")  # type: ignore[untyped-decorator]
    def used_by(self, networks: Any) -> int:
        count: int = networks.key_count
        return count

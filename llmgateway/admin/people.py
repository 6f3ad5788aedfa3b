"""People and their groups. Owners alone may change them: who edits accounts could make themselves owner."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from llmgateway.admin_base import GatewayAdmin, GatewayInline
from llmgateway.models import Membership

admin.site.unregister(User)
admin.site.unregister(Group)


class TeamsOfPersonInline(GatewayInline):
    model = Membership
    autocomplete_fields = ("team",)
    verbose_name_plural = "teams"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, GatewayAdmin):  # type: ignore[misc, type-arg]  # two libraries' bases agree at run time
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = (TeamsOfPersonInline,)
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    # Rights come through groups: a person's own would be overlooked when the group changes.
    filter_horizontal = ()
    autocomplete_fields = ("groups",)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Rights", {"fields": ("is_active", "is_staff", "is_superuser", "groups")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, GatewayAdmin):  # type: ignore[misc]  # two libraries' bases agree at run time
    filter_horizontal = ()

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest | None = None, **kwargs: Any) -> Any:
        kwargs.setdefault("widget", UnfoldAdminSelect2MultipleWidget())
        return super().formfield_for_manytomany(db_field, request=request, **kwargs)

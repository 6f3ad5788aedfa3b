"""People and their groups. Owners alone may change them: who edits accounts could make themselves owner."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

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


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, GatewayAdmin):  # type: ignore[misc]  # two libraries' bases agree at run time
    pass

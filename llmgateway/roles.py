"""The two groups that come with the product. Owners are superusers and need no group.

`migrate` keeps their permissions complete as models are added; whoever wants less makes a group of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig

if TYPE_CHECKING:
    from django.contrib.auth.models import Permission
    from django.db.models import QuerySet

ADMINS = "Admins"
"""May do everything but manage people's accounts, with which they could make themselves owners."""
AUDITORS = "Auditors"
"""May see everything and change nothing."""

OUR_APPS = frozenset({"llmgateway", "management_api", "providers", "billing", "dashboard"})
# What both may see of other apps: people, to choose members from, and who changed what.
VISIBLE = {"auth": ("view_user", "view_group"), "auditlog": ("view_logentry",)}


def create_roles(sender: AppConfig, **_kwargs: Any) -> None:
    """Give the groups the permissions of the app that was just migrated."""
    from auditlog.context import disable_auditlog
    from django.contrib.auth.models import Group, Permission

    permissions = Permission.objects.filter(content_type__app_label=sender.label)
    granted = {ADMINS: _of_admins(sender.label, permissions), AUDITORS: _of_auditors(sender.label, permissions)}
    if not any(granted.values()):
        return
    # Nobody's doing, and the log's table may not exist yet.
    with disable_auditlog():
        for name, of_app in granted.items():
            group, _ = Group.objects.get_or_create(name=name)
            group.permissions.add(*of_app)


def _of_admins(label: str, permissions: QuerySet[Permission]) -> list[Permission]:
    if label in OUR_APPS:
        return list(permissions)
    return list(permissions.filter(codename__in=VISIBLE.get(label, ())))


def _of_auditors(label: str, permissions: QuerySet[Permission]) -> list[Permission]:
    if label in OUR_APPS:
        return list(permissions.filter(codename__startswith="view_"))
    return list(permissions.filter(codename__in=VISIBLE.get(label, ())))

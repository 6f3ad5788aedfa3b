"""The record of changes and of log-in attempts. Neither can be edited."""

from __future__ import annotations

from typing import Any

from auditlog import get_logentry_model
from auditlog.models import LogEntry
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import display

from llmgateway import change_log
from llmgateway.admin_base import GatewayAdmin, ReadOnlyAdmin, badge
from llmgateway.audit import CONFIGURATION
from llmgateway.searches import of_found, part_of, through, words_of

TONES = {"Created": "good", "Changed": "neutral", "Deleted": "bad", "Read": "neutral"}


class KindFilter(admin.SimpleListFilter):
    title = "kind of object"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        kinds = (label.lower().split(".") for label in CONFIGURATION)
        found = (ContentType.objects.get_by_natural_key(app, model) for app, model in kinds)
        return sorted(((str(kind.pk), kind.name) for kind in found), key=lambda item: item[1].lower())

    def queryset(self, request: HttpRequest, queryset: QuerySet[LogEntry]) -> QuerySet[LogEntry]:
        value = self.value()
        return queryset.filter(content_type_id=value) if value and value.isdigit() else queryset


if admin.site.is_registered(LogEntry):
    admin.site.unregister(LogEntry)


@admin.register(get_logentry_model())
class ChangeAdmin(ReadOnlyAdmin):
    empty_text = "Each change through the admin, imports and commands will stand here, with who, when and what."
    list_display = ("timestamp", "verb", "subject", "who", "source", "remote_addr")
    list_display_links = ("timestamp", "subject")
    list_select_related = ("actor", "content_type")
    list_filter = (KindFilter, ("actor", AutocompleteSelectFilter), ("timestamp", RangeDateTimeFilter), "action")
    search_fields = ("=object_pk", "object_repr", "=actor__username")
    search_help_text = "Part of an object's name, its id, or a user name."
    fields = ("timestamp", "who", "source", "remote_addr", "subject", "what")
    readonly_fields = fields

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[LogEntry], search_term: str
    ) -> tuple[QuerySet[LogEntry], bool]:
        found = queryset
        for word in words_of(search_term):
            by = through("actor", get_user_model().objects.all(), "username__iexact", word)
            found = found.filter(part_of("object_repr", word) | Q(object_pk__iexact=word) | by)
        return (queryset if found is queryset else of_found(found, queryset)), False

    @display(description="Change", ordering="action")  # type: ignore[untyped-decorator]
    def verb(self, entry: LogEntry) -> SafeString:
        verb = change_log.VERBS.get(entry.action, "Changed")
        return badge(verb.lower(), TONES[verb])

    @display(description="Object")  # type: ignore[untyped-decorator]
    def subject(self, entry: LogEntry) -> str:
        return f"{entry.content_type.name} {entry.object_repr}"

    @display(description="Who", ordering="actor")  # type: ignore[untyped-decorator]
    def who(self, entry: LogEntry) -> str:
        return entry.actor.get_username() if entry.actor else entry.actor_email or "–"

    @display(description="Through")  # type: ignore[untyped-decorator]
    def source(self, entry: LogEntry) -> str:
        return str((entry.additional_data or {}).get("source", ""))

    @display(description="What")  # type: ignore[untyped-decorator]
    def what(self, entry: LogEntry) -> SafeString:
        rows = render_to_string("gateway_admin/change_rows.html", {"changes": change_log.describe([entry])})
        return mark_safe(rows)  # noqa: S308  # rendered by an escaping template


for _model in (AccessAttempt, AccessFailureLog, AccessLog):
    if admin.site.is_registered(_model):
        admin.site.unregister(_model)


@admin.register(AccessAttempt)
class AccessAttemptAdmin(GatewayAdmin):
    """Deleting a row lets that person try again at once."""

    empty_text = "Failed log-ins stand here until they are forgotten."
    list_display = ("attempt_time", "username", "ip_address", "failures_since_start")
    search_fields = ("username", "ip_address")
    fields = ("attempt_time", "username", "ip_address", "user_agent", "failures_since_start")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page_context(self, request: HttpRequest, object_id: str | None) -> dict[str, Any]:
        return {"show_history": False}

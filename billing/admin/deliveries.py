"""The outbox in the admin: what was told to whom, what waits, and what was given up and can be sent again."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from billing.models import Delivery
from billing.reporters.claims import replay
from llmgateway.admin_base import ReadOnlyAdmin, badge

TONES = {"pending": "warning", "delivered": "good", "dead": "bad"}


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    empty_text = "Events for webhooks and databases stand here from the moment their request is in the ledger."
    list_display = ("event_id", "reporter", "type", "outcome", "attempts", "due", "last_error")
    list_select_related = ("reporter",)
    list_filter = ("state", "reporter", "type")
    search_fields = ("=event_id",)
    search_help_text = "A whole event id, such as usage_ and a request id."
    ordering = ("-id",)
    sortable_by = ()
    actions = ("replay_selected",)
    actions_list = ("replay_dead",)
    fieldsets = (
        (None, {"fields": ("event_id", "reporter", "type", "outcome", "created_at", "settled_at")}),
        ("Attempts", {"fields": ("attempts", "due", "last_error")}),
        ("What is told", {"fields": ("content",)}),
    )
    readonly_fields = (
        "event_id", "reporter", "type", "outcome", "created_at", "settled_at", "attempts", "due", "last_error", "content",
    )  # fmt: skip

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed: bool = super().has_view_permission(request, obj) or self.has_replay_permission(request)
        return allowed

    def has_replay_permission(self, request: HttpRequest, _object_id: Any = None) -> bool:
        return request.user.has_perm("billing.change_delivery")

    @display(description="State")  # type: ignore[untyped-decorator]
    def outcome(self, delivery: Delivery) -> SafeString:
        return badge(delivery.get_state_display().lower(), TONES.get(delivery.state, "neutral"))

    @display(description="Next attempt", empty_value="–")  # type: ignore[untyped-decorator]
    def due(self, delivery: Delivery) -> Any:
        return delivery.next_attempt_at if delivery.state == Delivery.State.PENDING else None

    @display(description="Payload")  # type: ignore[untyped-decorator]
    def content(self, delivery: Delivery) -> SafeString:
        text = json.dumps(json.loads(delivery.payload), indent=2, ensure_ascii=False)
        return format_html('<pre class="gw-code">{}</pre>', text)

    @admin.action(description="Send again", permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        count = replay(Delivery.objects.filter(pk__in=list(queryset.values_list("pk", flat=True))), timezone.now())
        messages.success(request, f"{count} events are sent again within a few seconds.")

    @action(description="Send all again that were given up", url_path="replay", permissions=["replay"], icon="replay")  # type: ignore[untyped-decorator]
    def replay_dead(self, request: HttpRequest) -> HttpResponse:
        if not self.has_replay_permission(request):
            raise PermissionDenied
        dead = Delivery.objects.filter(state=Delivery.State.DEAD)
        back = reverse("admin:billing_delivery_changelist")
        if request.method == "POST":
            messages.success(request, f"{replay(dead, timezone.now())} events are sent again.")
            return redirect(back)
        question = "Send all events again that were given up?"
        context = {
            **self.admin_site.each_context(request),
            "title": question,
            "question": question,
            "explanation": f"{dead.count()} events become due now, with all attempts before them. Events of reporters "
            "that are switched off wait until these are switched on.",
            "opts": self.opts,
            "confirm": "Send again",
            "back": back,
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)

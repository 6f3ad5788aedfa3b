"""Reporters in the admin: whom to tell of usage, how that goes, and a test event. Secrets are write-only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django import forms
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordToggleWidget,
    UnfoldAdminTextareaWidget,
)

from billing.admin.alerts import moment
from billing.models import UsageReporter
from billing.reporters.backlog import MOST_COUNTED, Backlog, backlog
from billing.reporters.models import STATUSES
from billing.reporters.secrets import parse_headers, validate_secret
from billing.reporters.trial import send_trial
from llmgateway.admin_base import GatewayAdmin, badge, link
from providers.secret_values import is_reference

REMOVE = "-"
"""Written in place of headers, it removes the present ones."""


class ReporterForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    secret = forms.CharField(
        label="Secret",
        required=False,
        max_length=10_000,
        widget=UnfoldAdminPasswordToggleWidget({"autocomplete": "new-password"}),
        help_text="Of a webhook: what signs its requests (whsec_…), or env:NAME or file:/path. Empty: a new webhook gets "
        "one that is shown once, and others keep theirs. Of a database: its password.",
    )
    headers = forms.CharField(
        required=False,
        max_length=20_000,
        widget=UnfoldAdminTextareaWidget({"rows": 3, "placeholder": "Authorization: Bearer …"}),
        help_text="Sent with every request, one a line; values may be env:NAME or file:/path. They are kept encrypted. "
        "Empty: keep the present ones. A single - removes them.",
    )
    statuses = forms.MultipleChoiceField(
        label="Requests that ended",
        required=False,
        choices=[(status, status) for status in STATUSES],
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        help_text="None chosen: all of them.",
    )

    class Meta:
        model = UsageReporter
        fields = (
            "name", "kind", "url", "allow_private_network", "enabled", "reports_usage", "reports_budgets", "statuses",
            "teams", "api_key_field", "includes_cost", "batch_size",
        )  # fmt: skip
        labels: ClassVar = {
            "url": "Address",
            "reports_usage": "Requests",
            "reports_budgets": "Budgets",
            "includes_cost": "Cost",
        }

    def clean_headers(self) -> dict[str, str] | None:
        """None: keep the present ones."""
        text: str = self.cleaned_data["headers"].strip()
        if not text:
            return None
        return {} if text == REMOVE else parse_headers(text)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        secret = cleaned.get("secret", "").strip()
        if secret:
            try:
                validate_secret(secret, signs=cleaned.get("kind") == UsageReporter.Kind.WEBHOOK)
            except forms.ValidationError as error:
                self.add_error("secret", error)
        cleaned["secret"] = secret
        return cleaned

    def save(self, commit: bool = True) -> UsageReporter:
        secret, headers = self.cleaned_data["secret"], self.cleaned_data["headers"]
        if secret:
            self.instance.set_secret(secret)
        if headers is not None:
            self.instance.set_headers(headers)
        saved: UsageReporter = super().save(commit)
        return saved


def describe_secret(reporter: UsageReporter) -> tuple[str, str]:
    """What may be said of a secret, and a tone."""
    try:
        stored = reporter.stored_secret()
        reporter.resolve_secret()
    except ImproperlyConfigured as error:
        return str(error), "bad"
    if not stored:
        return "none", "neutral" if not reporter.is_webhook else "bad"
    return (stored if is_reference(stored) else "stored, encrypted"), "good"


def receiver_of(reporter: UsageReporter) -> str:
    """The address without what may be a secret: its query."""
    parts = urlsplit(reporter.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _backlog_of(reporter: Any) -> Backlog:
    # Several columns show it; the row is asked for it once.
    if not hasattr(reporter, "present_backlog"):
        reporter.present_backlog = backlog(timezone.now(), reporter_id=reporter.pk)
    found: Backlog = reporter.present_backlog
    return found


def _count(number: int) -> str:
    return f"{number:,}{' or more' if number >= MOST_COUNTED else ''}"


@admin.register(UsageReporter)
class UsageReporterAdmin(GatewayAdmin):
    form = ReporterForm
    empty_text = "A reporter tells a webhook or another database of each request, of its tokens and its cost."
    list_display = ("name", "receiver", "condition", "pending", "oldest", "dead", "enabled")
    list_display_links = ("name",)
    list_select_related = ("state",)
    list_filter = ("kind", "enabled")
    search_fields = ("name",)
    autocomplete_fields = ("teams",)
    fieldsets = (
        (None, {"fields": ("name", "kind", "url", "allow_private_network", "enabled")}),
        ("Secrets", {"fields": ("present_secret", "secret", "present_headers", "headers")}),
        ("What to tell", {"fields": ("reports_usage", "reports_budgets", "statuses", "teams")}),
        ("How", {"fields": ("api_key_field", "includes_cost", "batch_size")}),
        (
            "Deliveries",
            {"fields": ("condition", "pending", "oldest", "dead", "delivered", "last_delivered", "last_error")},
        ),
    )
    add_fieldsets = (
        (None, {"fields": ("name", "kind", "url", "allow_private_network", "enabled")}),
        ("Secrets", {"fields": ("secret", "headers")}),
        ("What to tell", {"fields": ("reports_usage", "reports_budgets", "statuses", "teams")}),
        ("How", {"fields": ("api_key_field", "includes_cost", "batch_size")}),
    )
    readonly_fields = (
        "present_secret", "present_headers", "condition", "pending", "oldest", "dead", "delivered", "last_delivered",
        "last_error",
    )  # fmt: skip
    actions_row = ("send_test",)
    actions_detail = ("send_test", "show_deliveries")

    @method_decorator(sensitive_post_parameters("secret", "headers"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageReporter]:
        found: QuerySet[UsageReporter] = super().get_queryset(request).select_related("state")
        return found

    def save_model(self, request: HttpRequest, obj: UsageReporter, form: Any, change: bool) -> None:
        if obj.is_webhook and not obj.encrypted_secret:
            request.fresh_secret = obj.make_secret()  # type: ignore[attr-defined]  # for `_with_secret` alone
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        answer: HttpResponse = super().response_add(request, obj, post_url_continue)
        return self._with_secret(request, obj, answer)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        answer: HttpResponse = super().response_change(request, obj)
        return self._with_secret(request, obj, answer)

    def _with_secret(self, request: HttpRequest, reporter: UsageReporter, answer: HttpResponse) -> HttpResponse:
        """The one answer that holds a secret that was made here, in place of the usual one."""
        secret = getattr(request, "fresh_secret", "")
        if not secret:
            return answer
        headline = f"{reporter} is ready"
        context = {
            **self.admin_site.each_context(request),
            "title": headline,
            "headline": headline,
            "opts": self.opts,
            "secret": secret,
            "back": reverse("admin:billing_usagereporter_change", args=[reporter.pk]),
        }
        return TemplateResponse(request, "gateway_admin/signing_secret.html", context)

    @display(description="Receiver")  # type: ignore[untyped-decorator]
    def receiver(self, reporter: UsageReporter) -> str:
        return receiver_of(reporter)

    @display(description="Present secret")  # type: ignore[untyped-decorator]
    def present_secret(self, reporter: UsageReporter) -> SafeString:
        return badge(*describe_secret(reporter))

    @display(description="Present headers")  # type: ignore[untyped-decorator]
    def present_headers(self, reporter: UsageReporter) -> str:
        try:
            return ", ".join(reporter.stored_headers()) or "none"
        except ImproperlyConfigured as error:
            return str(error)

    @display(description="State")  # type: ignore[untyped-decorator]
    def condition(self, reporter: UsageReporter) -> SafeString:
        state = getattr(reporter, "state", None)
        if not reporter.enabled:
            return badge("switched off", "neutral")
        if state is not None and state.last_error:
            waits = state.paused_until is not None and state.paused_until > timezone.now()
            return badge("failing, trying again" if waits or state.failures else "partly failing", "bad")
        return badge("delivering" if state is not None and state.delivered else "nothing yet", "good")

    @display(description="Waiting")  # type: ignore[untyped-decorator]
    def pending(self, reporter: UsageReporter) -> str:
        return _count(_backlog_of(reporter).pending)

    @display(description="Oldest waits")  # type: ignore[untyped-decorator]
    def oldest(self, reporter: UsageReporter) -> str:
        age = _backlog_of(reporter).oldest_age_s
        now = timezone.now()
        return timesince(now - timedelta(seconds=age), now) if age else "–"

    @display(description="Given up")  # type: ignore[untyped-decorator]
    def dead(self, reporter: UsageReporter) -> SafeString | str:
        count = _backlog_of(reporter).dead
        if not count:
            return "0"
        url = f"{reverse('admin:billing_delivery_changelist')}?reporter__id__exact={reporter.pk}&state__exact=dead"
        return link(url, _count(count))

    @display(description="Delivered")  # type: ignore[untyped-decorator]
    def delivered(self, reporter: UsageReporter) -> str:
        return _count(_backlog_of(reporter).delivered)

    @display(description="Last delivered")  # type: ignore[untyped-decorator]
    def last_delivered(self, reporter: UsageReporter) -> str:
        state = getattr(reporter, "state", None)
        return moment(state.last_delivered_at) if state is not None and state.last_delivered_at else "never"

    @display(description="Last error")  # type: ignore[untyped-decorator]
    def last_error(self, reporter: UsageReporter) -> str:
        state = getattr(reporter, "state", None)
        return (state.last_error if state is not None else "") or "none"

    @action(description="Deliveries", url_path="deliveries", permissions=["view"], icon="outbox")  # type: ignore[untyped-decorator]
    def show_deliveries(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect(f"{reverse('admin:billing_delivery_changelist')}?reporter__id__exact={int(object_id)}")

    @action(description="Send a test event", url_path="test", permissions=["change"], icon="send")  # type: ignore[untyped-decorator]
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        reporter: UsageReporter | None = self.get_object(request, object_id)
        if reporter is None:
            raise Http404(f"There is no reporter with id {object_id}.")
        if not self.has_change_permission(request, reporter):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": f"Send a test event to {reporter}",
            "question": f"Send a test event to {reporter}",
            "explanation": f"Posts an event of type “test”, signed, to {receiver_of(reporter)}."
            if reporter.is_webhook
            else "Connects, and makes the table llm_usage if it is missing. No row is written.",
            "opts": self.opts,
            "result": _verdict(reporter) if request.method == "POST" else None,
            "confirm": "Send again" if request.method == "POST" else "Send",
            "back": reverse("admin:billing_usagereporter_change", args=[reporter.pk]),
            "back_text": "Back",
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)


def _verdict(reporter: UsageReporter) -> dict[str, str]:
    outcome = send_trial(reporter)
    if outcome.ok:
        took = "The receiver took the event." if reporter.is_webhook else "The table is there and can be written."
        return {"tone": "good", "headline": "It works", "detail": took}
    return {"tone": "bad", "headline": "It does not work", "detail": outcome.error}

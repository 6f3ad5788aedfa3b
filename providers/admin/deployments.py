"""Deployments in the admin, with the test of their connection."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from billing.admin.budgets import DeploymentBudgetInline, read_limit
from billing.money import plain, usd
from llmgateway.admin.limits import DeploymentLimitInline
from llmgateway.admin_base import AmountField, badge
from providers import services
from providers.admin.catalogue import described, entry_of
from providers.admin.health import HealthPage
from providers.connection_check import check_connection
from providers.models import Deployment

MAX_TESTED = 10
"""At once from the list, for each may take ten seconds."""


class DeploymentForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    max_request_pico_usd = AmountField(
        label="Most a request can cost in USD",
        required=False,
        read=read_limit,
        show=lambda pico: plain(usd(pico)),
        help_text="What a strict budget holds for requests whose cost has no other bound, such as those with images by "
        "address. Empty: strict budgets refuse them.",
    )

    class Meta:
        model = Deployment
        fields = ("max_request_pico_usd",)


@admin.register(Deployment)
class DeploymentAdmin(HealthPage):
    form = DeploymentForm
    empty_text = "A deployment is a model at a provider, reached with a credential."
    list_display = ("name", "provider", "model", "credential", "traffic", "enabled")
    list_select_related = ("provider", "credential__provider")
    list_filter = (("provider", AutocompleteSelectFilter), "enabled", "draining")
    search_fields = ("name", "model", "provider__name")
    autocomplete_fields = ("provider", "credential")
    fieldsets = (
        (None, {"fields": ("name", "provider", "credential", "model", "catalogue", "enabled")}),
        ("Streams", {"fields": ("inject_usage", "drain_s")}),
        ("Strict budgets", {"fields": ("max_output_tokens", "max_request_pico_usd")}),
        (
            "Timeouts in seconds",
            {"fields": (("connect_timeout_s", "first_token_timeout_s"), ("idle_timeout_s", "total_timeout_s"))},
        ),
        (
            "Health",
            {
                "fields": (
                    "draining",
                    "probe_enabled",
                    "probe_path",
                    ("probe_interval_s", "probe_timeout_s"),
                    ("probe_unhealthy_after", "probe_healthy_after"),
                ),
                "description": "Times are in seconds. Requests that fail open a deployment's circuit whether or not it is "
                "probed; the settings say when.",
            },
        ),
    )
    readonly_fields = ("catalogue",)
    inlines = (DeploymentLimitInline, DeploymentBudgetInline)
    actions = ("test_selected", "drain_selected", "put_back_selected")
    actions_row = ("test_connection",)
    actions_detail = ("test_connection",)

    @display(description="Catalogue")  # type: ignore[untyped-decorator]
    def catalogue(self, deployment: Deployment) -> str:
        """What the model can do."""
        return (
            described(entry_of(deployment.provider_id, deployment.model)) if deployment.pk else "known once it is saved"
        )

    @display(description="Requests")  # type: ignore[untyped-decorator]
    def traffic(self, deployment: Deployment) -> SafeString:
        return badge("draining", "warning") if deployment.draining else badge("taken", "good")

    @admin.action(description="Drain", permissions=["change"])
    def drain_selected(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        self._drain(request, queryset, draining=True)

    @admin.action(description="Put back", permissions=["change"])
    def put_back_selected(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        self._drain(request, queryset, draining=False)

    def _drain(self, request: HttpRequest, queryset: QuerySet[Deployment], *, draining: bool) -> None:
        changed = [row.name for row in queryset if services.deployment_drain(row, draining=draining)]
        if not changed:
            messages.warning(request, f"Nothing to do: they are {'drained' if draining else 'in use'} already.")
            return
        end = "no new requests; what runs goes on." if draining else "requests again."
        verb = "gets" if len(changed) == 1 else "get"
        messages.success(request, f"Within a second {', '.join(changed)} {verb} {end}")

    @action(description="Test connection", url_path="test", permissions=["change"], icon="network_check")  # type: ignore[untyped-decorator]
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponse:
        deployment: Deployment | None = self.get_object(request, object_id)
        if deployment is None:
            raise Http404(f"There is no deployment with id {object_id}.")
        if not self.has_change_permission(request, deployment):
            raise PermissionDenied
        question = f"Test the connection of {deployment.name}"
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": question,
            "question": question,
            "explanation": f"Asks {deployment.provider} for its list of models with this deployment's credential. "
            "It costs nothing.",
            "opts": self.opts,
            "result": check_connection(deployment) if request.method == "POST" else None,
            "confirm": "Send again" if request.method == "POST" else "Send the request",
            "back": reverse("admin:providers_deployment_change", args=[deployment.pk]),
            "back_text": "Back",
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)

    @admin.action(description="Test connection", permissions=["change"])
    def test_selected(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        chosen = list(queryset.select_related("provider", "credential__provider")[: MAX_TESTED + 1])
        for deployment in chosen[:MAX_TESTED]:
            result = check_connection(deployment)
            level = messages.SUCCESS if result.ok else messages.ERROR
            messages.add_message(request, level, f"{deployment.name}: {result.headline}. {result.detail}")
        if len(chosen) > MAX_TESTED:
            messages.warning(request, f"Only the first {MAX_TESTED} were tested; choose fewer at once.")

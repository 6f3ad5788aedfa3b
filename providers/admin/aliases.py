"""Model aliases in the admin, with their weighted targets."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe
from unfold.decorators import display

from billing.admin.budgets import AliasBudgetInline
from llmgateway.admin.limits import AliasLimitInline
from llmgateway.admin_base import GatewayAdmin, GatewayInline
from providers.admin.catalogue import described, entry_of
from providers.models import AliasTarget, ModelAlias


class TargetInline(GatewayInline):
    model = AliasTarget
    fk_name = "alias"
    fields = ("deployment", "weight", "position")
    autocomplete_fields = ("deployment",)
    verbose_name = "target"
    verbose_name_plural = "targets"


@admin.register(ModelAlias)
class ModelAliasAdmin(GatewayAdmin):
    empty_text = "An alias is the model name that applications call; its targets are the deployments that answer."
    list_display = ("name", "strategy", "target_list", "retires_at", "enabled")
    list_filter = ("enabled", "strategy")
    search_fields = ("name", "=targets__deployment__name")
    search_help_text = "Part of a name, or the whole name of a deployment."
    fields = ("name", "strategy", "enabled", "catalogue", ("retires_at", "replacement"))
    readonly_fields = ("catalogue",)
    inlines = (TargetInline, AliasLimitInline, AliasBudgetInline)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelAlias]:
        found: QuerySet[ModelAlias] = super().get_queryset(request).prefetch_related("targets__deployment")
        return found

    @display(description="Catalogue")  # type: ignore[untyped-decorator]
    def catalogue(self, alias: ModelAlias) -> SafeString | str:
        """What each of its deployments can do."""
        targets = alias.targets.select_related("deployment") if alias.pk else ()
        lines = [
            (target.deployment.name, described(entry_of(target.deployment.provider_id, target.deployment.model)))
            for target in targets
            if target.deployment is not None
        ]
        return format_html_join(mark_safe("<br>"), "{}: {}", lines) or "known once it has targets"

    @display(description="Targets")  # type: ignore[untyped-decorator]
    def target_list(self, alias: ModelAlias) -> str:
        """Shares for weighted aliases, the order for the others."""
        targets = list(alias.targets.all())
        if not targets:
            return "none: requests are answered 503"
        if alias.strategy != ModelAlias.Strategy.WEIGHTED:
            return " → ".join(target.leads_to for target in targets)
        whole = sum(target.weight for target in targets)
        return ", ".join(f"{target.leads_to} {100 * target.weight / whole:.0f} %" for target in targets)

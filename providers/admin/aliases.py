"""Model aliases in the admin: where they lead, by which rules, and what is done when a target fails."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe
from unfold.decorators import display
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminTextareaWidget

from billing.admin.budgets import AliasBudgetInline
from billing.money import pico_from_usd, plain, usd
from llmgateway.admin.limits import AliasLimitInline
from llmgateway.admin_base import AmountField, GatewayAdmin, GatewayInline, ObjectField
from providers import services
from providers.admin.catalogue import described, entry_of
from providers.alias_models import refuse_canaries_beyond_all
from providers.models import AliasFallback, AliasRule, AliasTarget, ModelAlias


class AliasForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    parameter_defaults = ObjectField(
        label="Defaults",
        placeholder='{"temperature": 0.2}',
        help_text="Fields of the request in OpenAI's words, for requests that do not say.",
    )
    parameter_overrides = ObjectField(
        label="Overrides",
        placeholder='{"max_tokens": 1000, "seed": null}',
        help_text="Whatever requests say. null removes a field.",
    )
    hedge_max_pico_usd = AmountField(
        label="A second attempt may cost, in USD",
        required=False,
        read=pico_from_usd,
        show=lambda pico: plain(usd(pico)),
        help_text="A second target is asked when the first is slow, if it is not expected to cost more. Empty: it is not.",
    )

    class Meta:
        model = ModelAlias
        fields = ("parameter_defaults", "parameter_overrides", "hedge_max_pico_usd")


class TargetFormSet(PaginationInlineFormSet):  # type: ignore[misc]  # the theme has no types
    def clean(self) -> None:
        super().clean()
        values = [getattr(form, "cleaned_data", {}) for form in self.forms]
        kept = [each.get("canary_percent") or 0.0 for each in values if not each.get("DELETE")]
        refuse_canaries_beyond_all(kept)


class TargetInline(GatewayInline):
    model = AliasTarget
    formset = TargetFormSet
    fk_name = "alias"
    fields = ("deployment", "target_alias", "weight", "canary_percent", "position")
    autocomplete_fields = ("deployment", "target_alias")
    verbose_name = "target"
    verbose_name_plural = "targets"


class RuleInline(GatewayInline):
    model = AliasRule
    fk_name = "alias"
    fields = ("name", "when", "use", "position", "enabled")
    autocomplete_fields = ("use",)
    verbose_name = "rule"
    verbose_name_plural = "rules: the first that holds decides"

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "when":
            placeholder = 'request.task_type == "summarization"'
            kwargs["widget"] = UnfoldAdminTextareaWidget({"rows": 2, "placeholder": placeholder, "spellcheck": "false"})
        return super().formfield_for_dbfield(db_field, request, **kwargs)


class FallbackInline(GatewayInline):
    model = AliasFallback
    fk_name = "alias"
    fields = ("cause", "use", "position")
    autocomplete_fields = ("use",)
    verbose_name = "fallback"
    verbose_name_plural = "fallbacks: those of one cause are asked in order"


@admin.register(ModelAlias)
class ModelAliasAdmin(GatewayAdmin):
    form = AliasForm
    empty_text = "An alias is the model name that applications call; its targets are the deployments that answer."
    list_display = ("name", "strategy", "target_list", "retires_at", "enabled")
    list_filter = ("enabled", "strategy")
    search_fields = ("name", "=targets__deployment__name")
    search_help_text = "Part of a name, or the whole name of a deployment."
    autocomplete_fields = ("cache_embeddings", "mirror_alias")
    fieldsets = (
        (None, {"fields": ("name", "enabled", "catalogue")}),
        (
            "Routing",
            {
                "fields": (("strategy", "sticky"),),
                "description": "Rules are asked first, then canaries, then the strategy. Targets, rules and fallbacks "
                "stand below.",
            },
        ),
        ("Parameters", {"fields": ("parameter_defaults", "parameter_overrides")}),
        (
            "Patience and retries",
            {"fields": (("first_token_timeout_s", "idle_timeout_s"), ("total_timeout_s", "retry_attempts"))},
        ),
        (
            "Cache",
            {"fields": (("cache_ttl_s", "cache_mode"), ("cache_embeddings", "cache_similarity"))},
        ),
        (
            "Hedging and mirroring",
            {"fields": (("hedge_max_pico_usd", "hedge_after_s"), ("mirror_alias", "mirror_percent"))},
        ),
        ("Retirement", {"fields": ("retires_at", "replacement")}),
    )
    readonly_fields = ("catalogue",)
    inlines = (TargetInline, RuleInline, FallbackInline, AliasLimitInline, AliasBudgetInline)
    actions = ("forget_answers",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelAlias]:
        rows = super().get_queryset(request).prefetch_related("targets__deployment", "targets__target_alias")
        found: QuerySet[ModelAlias] = rows
        return found

    @admin.action(description="Forget kept answers", permissions=["change"])
    def forget_answers(self, request: HttpRequest, queryset: QuerySet[ModelAlias]) -> None:
        names = []
        for alias in queryset:
            services.alias_forget_answers(alias)
            names.append(alias.name)
        messages.success(request, f"Kept answers of {', '.join(names)} are forgotten.")

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
        """Shares for weighted aliases, the order where it counts, and canaries apart."""
        targets = list(alias.targets.all())
        if not targets:
            return "none: requests are answered 503"
        canaries = [
            f"{target.leads_to} {target.canary_percent:g} % first" for target in targets if target.canary_percent
        ]
        balanced = [target for target in targets if not target.canary_percent]
        return ", ".join((*canaries, *_shares(alias.strategy, balanced)))


def _shares(strategy: str, targets: list[AliasTarget]) -> list[str]:
    if strategy == ModelAlias.Strategy.PRIORITY:
        return [" → ".join(target.leads_to for target in targets)] if targets else []
    if strategy != ModelAlias.Strategy.WEIGHTED:
        return [target.leads_to for target in targets]
    whole = sum(target.weight for target in targets)
    return [f"{target.leads_to} {100 * target.weight / whole:.0f} %" for target in targets]

"""The figures on the admin's first page: what there is, and what it did today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import F, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from billing.models import UsageRollup
from billing.money import PICO_PER_USD, format_usd
from llmgateway import change_log
from llmgateway.models import ApiKey
from llmgateway.selectors import usable_keys
from providers.models import Deployment, ModelAlias, Provider

LATEST_CHANGES = 5
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    value: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Something without which no request can be served."""

    text: str
    url: str


def add_overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Called by the theme for the first page. Each figure is for those who may see what it counts."""
    context["figures"] = [*_stock(request), *_today(request)]
    context["missing"] = _missing_steps(request)
    context["areas"] = _areas(context["sidebar_navigation"])
    if request.user.has_perm("auditlog.view_logentry"):
        context["latest_changes"] = change_log.describe(change_log.latest(LATEST_CHANGES))
    context["title"] = "Overview"
    return context


def _areas(navigation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups of the side bar, which a telephone hides, with what this person may open."""
    groups = [
        {"title": group["title"], "items": [item for item in group["items"] if item["has_permission"]]}
        for group in navigation
        if "title" in group
    ]
    return [group for group in groups if group["items"]]


def _stock(request: HttpRequest) -> list[Figure]:
    found = []
    if request.user.has_perm("llmgateway.view_apikey"):
        found.append(Figure("usable keys", f"{usable_keys().count():,}", reverse("admin:llmgateway_apikey_changelist")))
    if request.user.has_perm("providers.view_provider"):
        count = Provider.objects.filter(enabled=True).count()
        found.append(Figure("enabled providers", f"{count:,}", reverse("admin:providers_provider_changelist")))
    if request.user.has_perm("providers.view_modelalias"):
        count = ModelAlias.objects.filter(enabled=True).count()
        found.append(Figure("model aliases", f"{count:,}", reverse("admin:providers_modelalias_changelist")))
    return found


def _today(request: HttpRequest) -> list[Figure]:
    if not request.user.has_perm("billing.view_usagerecord"):
        return []
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    rows = UsageRollup.objects.filter(hour__gte=midnight).exclude(status=REFUSED).order_by()
    # A sum of 64-bit integers may leave 64 bits, at which SQLite gives up: so it is of two parts.
    whole, rest = Sum(F("cost_pico_usd") / PICO_PER_USD), Sum(F("cost_pico_usd") % PICO_PER_USD)
    found = rows.aggregate(requests=Sum("requests"), whole=whole, rest=rest)
    requests, cost = found["requests"] or 0, int(found["whole"] or 0) * PICO_PER_USD + int(found["rest"] or 0)
    url = reverse("admin:billing_usagerecord_changelist")
    return [Figure("requests today", f"{requests:,}", url), Figure("cost today", format_usd(cost), url)]


def _missing_steps(request: HttpRequest) -> list[Step]:
    """What to add next, in order, as long as no request can be served."""
    steps = (
        ("providers.add_provider", Provider, "Add a provider and its credential", "admin:providers_provider_add"),
        ("providers.add_deployment", Deployment, "Add a deployment: a model at it", "admin:providers_deployment_add"),
        ("providers.add_modelalias", ModelAlias, "Add a model alias that applications call", "admin:providers_modelalias_add"),
        ("llmgateway.add_apikey", ApiKey, "Create an API key", "admin:llmgateway_apikey_add"),
    )  # fmt: skip
    return [
        Step(text, reverse(url))
        for permission, model, text, url in steps
        if request.user.has_perm(permission) and not model.objects.exists()
    ]

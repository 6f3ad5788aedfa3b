"""The page that shows how deployments are doing, and lets people drain them, put them back and reset their circuits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from llmgateway.admin_base import GatewayAdmin, badge
from providers import services
from providers.health import DeploymentHealth, deployments_health
from providers.models import Deployment

URL_NAME = "providers_deployment_health"
DEPLOYMENTS_PER_PAGE = 50

_TONES = {
    "healthy": "good",
    "half_open": "warning",
    "draining": "warning",
    "open": "bad",
    "unhealthy": "bad",
}
_WORDS = {
    "half_open": "trying",
    "open": "circuit open",
    "unhealthy": "probes fail",
}


def _drain(deployment: Deployment) -> str:
    services.deployment_drain(deployment, draining=True)
    return f"Within a second {deployment.name} gets no new requests; what runs goes on."


def _put_back(deployment: Deployment) -> str:
    services.deployment_drain(deployment, draining=False)
    return f"Within a second {deployment.name} gets requests again."


def _reset(deployment: Deployment) -> str:
    services.deployment_forget_health(deployment)
    return f"Within a second all workers have forgotten what failed at {deployment.name}."


_ACTIONS: dict[str, Callable[[Deployment], str]] = {"drain": _drain, "put_back": _put_back, "reset": _reset}


class HealthPage(GatewayAdmin):
    """For the admin of deployments: the page beside their list."""

    def get_urls(self) -> list[Any]:
        # Before Django's own, which would take the word for the id of a row.
        return [path("health/", self.admin_site.admin_view(self.health_view), name=URL_NAME), *super().get_urls()]

    def health_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._act(request)
        query = request.GET.get("q", "").replace("\0", "").strip()
        page = Paginator(deployments_health(query), DEPLOYMENTS_PER_PAGE).get_page(request.GET.get("p"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Health",
            "opts": self.opts,
            "query": query,
            "page": page,
            "rows": [(each, _badge(each)) for each in page.object_list],
            "may_change": self.has_change_permission(request),
            "now": timezone.now(),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "gateway_admin/health.html", context)

    def _act(self, request: HttpRequest) -> HttpResponse:
        number = request.POST.get("deployment", "")
        deployment = get_object_or_404(Deployment, pk=number if number.isdecimal() and len(number) < 19 else None)
        action = _ACTIONS.get(request.POST.get("action", ""))
        if action is None or not self.has_change_permission(request, deployment):
            raise PermissionDenied
        messages.success(request, action(deployment))
        return redirect(f"{reverse(f'admin:{URL_NAME}')}?{request.GET.urlencode()}".rstrip("?"))


def _badge(row: DeploymentHealth) -> SafeString:
    return badge(_WORDS.get(row.state, row.state), _TONES.get(row.state, "neutral"))

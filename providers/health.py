"""Deployments with what the gateway's workers say of their health, for pages and the management API."""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.db.models import Q

from llmgateway import conf as conf_module
from llmgateway.health_reports import Overall, overall_health
from providers.models import Deployment

KINDS = {
    "authentication": "the provider refuses the credential",
    "connection_broken": "the connection broke off",
    "no_token": "the credential brings no token",
    "not_connected": "no connection",
    "overloaded": "the provider is overloaded",
    "permission_denied": "the provider permits nothing that is asked",
    "quota_exhausted": "the account's quota is used up",
    "rate_limited": "the provider limits us",
    "redirect": "it redirects",
    "server_error": "errors of the provider",
    "timeout": "no answer in time",
    "unreadable_answer": "answers that cannot be read",
}
"""Why requests failed, in words."""

_WORST_FIRST = ("open", "unhealthy", "half_open", "draining")


@dataclass(frozen=True, slots=True)
class DeploymentHealth:
    deployment: Deployment
    overall: Overall | None
    """None: no worker on this host speaks of it."""

    @property
    def state(self) -> str:
        """As the workers say, or `disabled`, or `unknown`."""
        if not self.deployment.enabled or not self.deployment.provider.enabled:
            return "disabled"
        if self.deployment.draining:
            return "draining"  # The workers know within a second.
        if self.overall is None:
            return "unknown"
        return "healthy" if self.overall.state == "draining" else self.overall.state

    @property
    def reason(self) -> str:
        """Why requests failed lately, in words; empty: they have not."""
        kind = "" if self.overall is None else self.overall.kind
        return KINDS.get(kind, kind.replace("_", " "))

    @property
    def retry_in(self) -> str:
        """When it is tried again, in words; empty: it is not left alone, or nobody can say."""
        if self.overall is None or self.overall.retry_at is None or self.state not in {"open", "unhealthy"}:
            return ""
        seconds = max(0, round(self.overall.retry_at - time.time()))
        return f"in {seconds} s" if seconds < 120 else f"in {round(seconds / 60)} min"

    @property
    def is_noted_only(self) -> bool:
        """Requests are sent there all the same."""
        return self.overall is not None and not self.overall.enforced


def reported_health() -> dict[int, Overall]:
    """What the workers of this host say, by the id of the row."""
    return overall_health(conf_module.conf.data_dir / "run")


def deployments_health(query: str = "") -> list[DeploymentHealth]:
    """Deployments whose name, model or provider has `query` in it: those in trouble first, then by provider and name."""
    found = reported_health()
    rows = Deployment.objects.select_related("provider").order_by("provider__name", "name")
    if query:
        named = Q(name__icontains=query) | Q(model__icontains=query) | Q(provider__name__icontains=query)
        rows = rows.filter(named)
    return sorted((DeploymentHealth(row, found.get(row.pk)) for row in rows), key=_trouble)


def _trouble(row: DeploymentHealth) -> int:
    """The worst first, and those that failed lately before those that did not."""
    if row.state in _WORST_FIRST:
        return _WORST_FIRST.index(row.state)
    has_failed = row.state == "healthy" and bool(row.reason)
    return len(_WORST_FIRST) + (not has_failed)

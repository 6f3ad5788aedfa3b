"""Writes to deployments and aliases that more than one place offers: the admin, the API and the commands."""

from __future__ import annotations

from django.db import transaction

from providers.models import Deployment, ModelAlias


@transaction.atomic
def deployment_drain(deployment: Deployment, *, draining: bool) -> bool:
    """Take a deployment out, or put it back. What runs there goes on. Whether that changed anything."""
    row = Deployment.objects.select_for_update().get(pk=deployment.pk)
    changed = row.draining != draining
    if changed:
        row.draining = draining
        row.save(update_fields=["draining"])
    deployment.draining = draining
    return changed


@transaction.atomic
def deployment_forget_health(deployment: Deployment) -> None:
    """Close its circuit and forget what probes have found, in every worker: what they know is of a generation."""
    row = Deployment.objects.select_for_update().get(pk=deployment.pk)
    row.health_generation += 1
    row.save(update_fields=["health_generation"])
    deployment.health_generation = row.health_generation


@transaction.atomic
def alias_forget_answers(alias: ModelAlias) -> None:
    """Forget every answer that was kept for an alias: they are found under its generation, which is raised."""
    row = ModelAlias.objects.select_for_update().get(pk=alias.pk)
    row.cache_generation += 1
    row.save(update_fields=["cache_generation"])
    alias.cache_generation = row.cache_generation

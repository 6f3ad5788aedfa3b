"""The first start: what callers of the simple API get who name no model, as ordinary rows that anybody may edit.

The alias `auto` asks the usual model of whoever is asked for a kind of task, and the words for vendors mean their usual models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmgateway.models import GatewaySettings
from providers.adapters.base import Adapter
from providers.models import AliasRule, AliasTarget, ModelAlias

DECIDING = "auto"
GENERAL_TASK = "text_generation"
"""Whoever is asked for it is asked first where nobody says what kind of task it is."""


@dataclass(frozen=True, slots=True)
class _Usual:
    """The model of a provider that is of use for most."""

    adapter: Adapter
    alias: ModelAlias


def seed_tasks(adapters: Iterable[Adapter]) -> None:
    """For the providers of these adapters, which have just been set up. Nothing, if none of them has a word in the simple API."""
    found = [usual for adapter in adapters if adapter.vendor and (usual := _usual(adapter)) is not None]
    if not found:
        return
    found.sort(key=lambda usual: usual.adapter.task_type != GENERAL_TASK)
    settings, _ = GatewaySettings.objects.get_or_create(pk=1)
    settings.vendor_models = {each.adapter.vendor: each.alias.name for each in found}
    settings.full_clean()
    settings.save()
    _seed_deciding(found)


def _usual(adapter: Adapter) -> _Usual | None:
    alias = ModelAlias.objects.filter(
        targets__deployment__provider__adapter=adapter.name, targets__deployment__model=adapter.trial_model
    ).first()
    return None if alias is None else _Usual(adapter, alias)


def _seed_deciding(found: list[_Usual]) -> None:
    """It leads to all of them, so that a kind of task that nobody is there for is answered too."""
    deciding = ModelAlias(name=DECIDING, strategy=ModelAlias.Strategy.PRIORITY)
    deciding.full_clean()
    deciding.save()
    for position, usual in enumerate(found):
        for target in usual.alias.targets.all():
            AliasTarget.objects.create(alias=deciding, deployment=target.deployment, position=position)
        if usual.adapter.task_type:
            rule = AliasRule(
                alias=deciding,
                name=usual.adapter.task_type,
                when=f'request.task_type == "{usual.adapter.task_type}"',
                use=usual.alias,
                position=position,
            )
            rule.full_clean()
            rule.save()

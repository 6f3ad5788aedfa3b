"""The first start: each provider key in the environment becomes a provider with its models, as ordinary rows.

Which variables hold a provider's key is the adapters' knowledge; which models it has, the price catalogue's.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from django.db import transaction

from billing.catalogue import CataloguePrice, prices_at
from billing.models import Price
from llmgateway import conf as conf_module
from llmgateway.audit import acting_as
from providers.adapters.addresses import RESERVED_NAMES
from providers.adapters.base import Adapter
from providers.adapters.registry import adapter_names, api_key_variables, get_adapter
from providers.catalogue import apply_catalogue_updates, catalogue_updates
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from providers.task_seeding import seed_tasks

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Seeded:
    """One provider that was set up."""

    provider: str
    variable: str
    models: int

    def __str__(self) -> str:
        return f"{self.provider} with the key in {self.variable} and {self.models} models"


@transaction.atomic
def seed_from_environment() -> list[Seeded]:
    """Set up a provider for each key that is set, unless there are providers already.

    An adapter without an address of its own is left out: nobody could say where the key may be sent.
    """
    if Provider.objects.exists():
        return []
    with acting_as(source="first start"):
        found = [_seed(get_adapter(name)) for name in sorted(adapter_names() - RESERVED_NAMES)]
        if any(found):
            seed_tasks(get_adapter(seeded.provider) for seeded in found if seeded is not None)
            apply_catalogue_updates(catalogue_updates())
    return [seeded for seeded in found if seeded is not None]


def _seed(adapter: Adapter) -> Seeded | None:
    values = conf_module.conf.values
    variable = next((name for name in api_key_variables(adapter) if values.get(name, "").strip()), None)
    if variable is None or not adapter.base_url:
        return None
    # Not checked as a person's entry is: the address is the adapter's own, which needs no look-up of names here.
    local = urlsplit(adapter.base_url).hostname in LOOPBACK
    provider = Provider(name=adapter.name, adapter=adapter.name, allow_private_network=local)
    provider.clean_fields()
    provider.save()
    credential = Credential(provider=provider, name="main")
    # A reference: the key stays where it is, and a new one needs no change here.
    credential.set_secret(f"env:{variable}")
    credential.full_clean()
    credential.save()
    return Seeded(provider.name, variable, _seed_models(provider, credential, prices_at(adapter.base_url)))


def _seed_models(provider: Provider, credential: Credential, prices: list[CataloguePrice]) -> int:
    for price in prices:
        row = Price(
            provider=provider,
            model=price.model,
            effective_from=price.effective_from,
            source=price.source,
            **price.figures,
        )
        row.full_clean()
        row.save()
    models = sorted({price.model for price in prices})
    for model in models:
        _seed_model(provider, credential, model)
    return len(models)


def _seed_model(provider: Provider, credential: Credential, model: str) -> None:
    qualified = f"{provider.name}/{model}"
    deployment = Deployment(name=qualified, provider=provider, credential=credential, model=model)
    deployment.full_clean()
    deployment.save()
    # Two providers may offer a model of one name; the second answers under its own.
    taken = ModelAlias.objects.filter(name=model).exists()
    alias = ModelAlias(name=qualified if taken else model)
    alias.full_clean()
    alias.save()
    AliasTarget.objects.create(alias=alias, deployment=deployment)

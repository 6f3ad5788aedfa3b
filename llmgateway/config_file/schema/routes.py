"""Where requests go: providers with their credentials, deployments, and aliases."""

from __future__ import annotations

from billing.models import MAX_LIMIT
from billing.money import MAX_LIMIT_USD, pico_from_usd
from llmgateway.config_file.entries import (
    AliasEntry,
    CredentialEntry,
    DeploymentEntry,
    Document,
    ProviderEntry,
    TargetEntry,
)
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.config_file.schema.limits import PLACE, read_budgets, read_limits
from llmgateway.validators import validate_name
from providers.models import ModelAlias
from providers.validators import validate_provider_name

LATER_STRATEGIES = ("round_robin", "least_in_flight", "lowest_latency", "lowest_cost")


def read_routes(parent: FieldReader, document: Document) -> None:
    """Fill in the document's providers, deployments and aliases."""
    for name, value in parent.named("providers", _check_provider_name):
        provider = _read_provider(name, FieldReader(value, parent.problems))
        if provider is None:
            document.unusable.add(("providers", name))
        else:
            document.providers.append(provider)
    for name, value in parent.named("deployments", validate_name):
        deployment = _read_deployment(name, FieldReader(value, parent.problems))
        if deployment is None:
            document.unusable.add(("deployments", name))
        else:
            document.deployments.append(deployment)
    for name, value in parent.named("aliases", validate_name):
        alias = _read_alias(name, FieldReader(value, parent.problems))
        if alias is None:
            document.unusable.add(("aliases", name))
        else:
            document.aliases.append(alias)


def _check_provider_name(name: str) -> None:
    validate_name(name)
    validate_provider_name(name)


def _read_provider(name: str, reader: FieldReader) -> ProviderEntry | None:
    adapter = reader.text("adapter", name)
    base_url = reader.text("base_url", "")
    allow_private = reader.boolean("allow_private_network", default=False)
    enabled = reader.boolean("enabled")
    credentials = _read_credentials(reader)
    limits = read_limits(reader, PLACE)
    budgets = read_budgets(reader, PLACE)
    reader.refuse("health")
    reader.finish()
    if not reader.usable or adapter is None or base_url is None:
        return None
    return ProviderEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        adapter=adapter,
        base_url=base_url,
        allow_private_network=bool(allow_private),
        enabled=enabled,
        credentials=credentials,
        limits=limits,
        budgets=budgets,
    )


def _read_credentials(parent: FieldReader) -> list[CredentialEntry]:
    found: dict[str, CredentialEntry] = {}
    for reader in parent.objects("credentials"):
        name = reader.text("name", "main")
        api_key = reader.text("api_key")
        enabled = reader.boolean("enabled")
        reader.finish()
        if not reader.usable or name is None:
            continue
        if name in found:
            reader.add("name", f"There is a credential {name} above; give this one another name.")
            continue
        found[name] = CredentialEntry(
            place=reader.place, places=reader.places(), name=name, api_key=api_key or None, enabled=enabled
        )
    return list(found.values())


def _read_deployment(name: str, reader: FieldReader) -> DeploymentEntry | None:
    provider = reader.text("provider", required=True)
    credential = reader.text("credential")
    model = reader.text("model", required=True)
    if model is not None:
        check_value(model, reader.at("model"), reader.problems, validate_name)
    inject_usage = reader.boolean("inject_usage", default=True)
    timeouts = reader.object("timeouts")
    connect_s = timeouts.seconds("connect_s", 5)
    first_token_s = timeouts.seconds("first_token_s", 60)
    idle_s = timeouts.seconds("idle_s", 120)
    total_s = timeouts.seconds("total_s", 600)
    drain_s = timeouts.seconds("drain_s", 0)
    timeouts.finish()
    enabled = reader.boolean("enabled")
    max_output = reader.integer("max_output_tokens", at_least=1, at_most=2**31 - 1)
    max_request = reader.money("max_request_usd", pico_from_usd)
    if max_request is not None and max_request > MAX_LIMIT:
        reader.add("max_request_usd", f"A request cannot cost more than {MAX_LIMIT_USD} dollars.")
    limits = read_limits(reader, PLACE)
    budgets = read_budgets(reader, PLACE)
    reader.refuse("health")
    reader.finish()
    if not reader.usable or provider is None or model is None:
        return None
    assert connect_s is not None
    assert first_token_s is not None
    assert idle_s is not None
    assert total_s is not None
    assert drain_s is not None
    return DeploymentEntry(
        place=reader.place,
        places=reader.places() | {f"timeouts.{step}": place for step, place in timeouts.places().items()},
        name=name,
        provider=provider,
        credential=credential,
        model=model,
        inject_usage=bool(inject_usage),
        connect_timeout_s=connect_s,
        first_token_timeout_s=first_token_s,
        idle_timeout_s=idle_s,
        total_timeout_s=total_s,
        drain_s=drain_s,
        max_output_tokens=max_output,
        max_request_pico_usd=max_request,
        enabled=enabled,
        limits=limits,
        budgets=budgets,
    )


def _read_alias(name: str, reader: FieldReader) -> AliasEntry | None:
    strategy = reader.choice("strategy", ModelAlias.Strategy.values, later=LATER_STRATEGIES, default="weighted")
    targets = _read_targets(reader)
    retires_at = reader.moment("retires_at")
    replacement = reader.text("replacement", "")
    enabled = reader.boolean("enabled")
    limits = read_limits(reader, PLACE)
    budgets = read_budgets(reader, PLACE)
    reader.refuse("fallbacks", "rules", "cache", "retries", "health", "sticky")
    reader.finish()
    if not reader.usable or strategy is None or replacement is None:
        return None
    return AliasEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        strategy=strategy,
        targets=targets,
        retires_at=retires_at,
        replacement=replacement,
        enabled=enabled,
        limits=limits,
        budgets=budgets,
    )


def _read_targets(parent: FieldReader) -> list[TargetEntry]:
    found: dict[str, TargetEntry] = {}
    for reader in parent.objects("targets"):
        deployment = reader.text("deployment", required=True)
        weight = reader.integer("weight", 1)
        reader.finish()
        if not reader.usable or deployment is None or weight is None:
            continue
        if deployment in found:
            reader.add("deployment", f"{deployment} is a target already; raise its weight instead.")
            continue
        found[deployment] = TargetEntry(
            place=reader.place, places=reader.places(), deployment=deployment, weight=weight
        )
    return list(found.values())

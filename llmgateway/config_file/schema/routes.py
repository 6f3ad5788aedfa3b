"""Where requests go: providers with their credentials, deployments, and aliases."""

from __future__ import annotations

from billing.models import MAX_LIMIT
from billing.money import MAX_LIMIT_USD, pico_from_usd
from llmgateway.config_file.entries import (
    CredentialEntry,
    DeploymentEntry,
    Document,
    ProviderEntry,
)
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.config_file.problems import Place
from llmgateway.config_file.schema.aliases import read_alias
from llmgateway.config_file.schema.limits import PLACE, read_budgets, read_limits
from llmgateway.validators import validate_name
from providers.models import Deployment
from providers.validators import validate_provider_name


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
        alias = read_alias(name, FieldReader(value, parent.problems))
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
    reader.refuse("health", because="Deployments are probed, not providers; write `health` there.")
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
    health, draining = _read_health(reader), reader.boolean("draining")
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
        places=_places_of(reader, "timeouts", "health"),
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
        health=health,
        draining=draining,
        max_output_tokens=max_output,
        max_request_pico_usd=max_request,
        enabled=enabled,
        limits=limits,
        budgets=budgets,
    )


def _places_of(reader: FieldReader, *groups: str) -> dict[str, Place]:
    """Where its fields stand, those of `groups` as `timeouts.connect_s`."""
    places = reader.places()
    for group in groups:
        places |= {f"{group}.{step}": place for step, place in reader.object(group).places().items()}
    return places


def _read_health(parent: FieldReader) -> dict[str, object]:
    """How a deployment is probed. Without `health` it is not."""
    reader = parent.object("health")
    seconds = {
        "probe_interval_s": reader.number("interval_s", at_least=1, at_most=86_400),
        "probe_timeout_s": reader.number("timeout_s", at_least=0.1, at_most=600),
    }
    counts = {
        "probe_unhealthy_after": reader.integer("unhealthy_after", at_least=1, at_most=1000),
        "probe_healthy_after": reader.integer("healthy_after", at_least=1, at_most=1000),
    }
    said = {"probe_path": reader.text("path"), **seconds, **counts}
    reader.finish()
    usual = Deployment()
    found = {column: getattr(usual, column) if value is None else value for column, value in said.items()}
    return {"probe_enabled": parent.has("health"), **found}

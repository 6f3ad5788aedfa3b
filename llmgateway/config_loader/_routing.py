"""Providers, credentials, deployments, prices and aliases: everything needed to send a request, ready to use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from billing.models import TOKEN_BUCKETS, Price
from billing.pricing import PriceVersion
from billing.unit_prices import unit_prices
from llmgateway.config_loader._aliases import PlaceRules, load_aliases
from llmgateway.config_loader._budgets import load_place_budgets
from llmgateway.config_loader._catalogue import Catalogue, load_catalogue
from llmgateway.config_loader._limits import load_place_limits
from llmgateway.config_loader._settings import LiveSettings
from llmgateway.config_loader._values import as_text, bounded, epoch
from llmgateway.pipeline.route_rules import Probe
from llmgateway.pipeline.snapshot import (
    Alias,
    BudgetRule,
    Capabilities,
    ConfigProblem,
    Deployment,
    Timeouts,
)
from providers.adapters.base import Adapter
from providers.adapters.errors import UnknownAdapterError
from providers.adapters.registry import get_adapter
from providers.adapters.types import Headers, Signer
from providers.models import Credential, Provider
from providers.models import Deployment as DeploymentRow

PRICE_COLUMNS = ("id", "provider_id", "model", "request", "units", *TOKEN_BUCKETS)

Prices = dict[tuple[int, str], tuple[PriceVersion, ...]]


@dataclass(frozen=True, slots=True)
class Routing:
    aliases: dict[str, Alias]
    deployments: tuple[Deployment, ...]
    providers: tuple[str, ...]
    files: tuple[str, ...]
    """Files that credentials refer to."""
    budgets: dict[int, BudgetRule]
    """Of all providers, deployments and aliases, those too that are switched off."""


@dataclass(frozen=True, slots=True)
class _ReadyProvider:
    name: str
    adapter: Adapter
    base_url: str


@dataclass(frozen=True, slots=True)
class _Secret:
    """A credential's secret, or why there is none."""

    text: str | None = None
    problem: str = ""
    file: str = ""


def load_routing(problems: list[ConfigProblem], settings: LiveSettings) -> Routing:
    providers = _load_providers(problems)
    secrets = _load_secrets(problems)
    rules = PlaceRules(load_place_limits(problems), load_place_budgets(problems))
    prices, catalogue = _load_prices(problems), load_catalogue(problems)
    loader = _DeploymentLoader(providers, secrets, prices, rules, settings, catalogue)
    deployments = loader.load(problems)
    return Routing(
        aliases=load_aliases(deployments, rules, problems),
        deployments=tuple(sorted(deployments.values(), key=lambda each: each.name)),
        providers=tuple(sorted(provider.name for provider in providers.values())),
        files=tuple(sorted({secret.file for secret in secrets.values() if secret.file})),
        budgets={rule.id: rule for group in rules.budgets.by_owner.values() for rule in group},
    )


def _load_providers(problems: list[ConfigProblem]) -> dict[int, _ReadyProvider]:
    ready = {}
    for row in Provider.objects.filter(enabled=True):
        try:
            adapter = get_adapter(row.adapter)
        except UnknownAdapterError as error:
            problems.append(
                ConfigProblem("providers_provider", str(row.pk), f"provider {row.name}", f"{error} It is left out.")
            )
            continue
        ready[row.pk] = _ReadyProvider(row.name, adapter, (row.base_url or adapter.base_url).rstrip("/"))
    return ready


def _load_secrets(problems: list[ConfigProblem]) -> dict[int, _Secret]:
    secrets = {}
    for row in Credential.objects.select_related("provider"):
        secret = secrets[row.pk] = _read_secret(row)
        if secret.problem and row.enabled:
            name = f"credential {row}"
            message = f"{secret.problem} Deployments that use it are not called."
            problems.append(ConfigProblem("providers_credential", str(row.pk), name, message))
    return secrets


def _read_secret(row: Credential) -> _Secret:
    if not row.enabled:
        return _Secret(problem=f"The credential {row} is switched off.")
    file = ""
    try:
        stored = row.stored_secret()
        file = stored.removeprefix("file:") if stored.startswith("file:") else ""
        secret = row.resolve_secret()
    except ImproperlyConfigured as error:
        return _Secret(problem=f"The credential {row} cannot be used. {error}", file=file)
    except ValueError:  # Not UTF-8; the error's own text would quote from the secret.
        return _Secret(problem=f"The credential {row} cannot be used: its file is not text.", file=file)
    if not secret or re.search(r"[^\x21-\x7e]", secret):
        return _Secret(
            problem=f"The credential {row} cannot be used: it is empty or holds spaces or characters that no header may.",
            file=file,
        )
    return _Secret(secret, file=file)


def _load_prices(problems: list[ConfigProblem]) -> Prices:
    prices: dict[tuple[int, str], list[PriceVersion]] = {}
    for row in (
        Price.objects.order_by("id").values(*PRICE_COLUMNS, moment=as_text("effective_from")).iterator(chunk_size=500)
    ):
        try:
            version = _price_version(row)
        except ValueError:
            name = f"price of {row['model']}"
            message = "the moment from which it holds cannot be read, so it is never in force; enter it again."
            problems.append(ConfigProblem("billing_price", str(row["id"]), name, message))
            continue
        prices.setdefault((row["provider_id"], row["model"]), []).append(version)
    return {
        place: tuple(sorted(versions, key=lambda version: (version.effective_from, version.id)))
        for place, versions in prices.items()
    }


def _price_version(row: dict[str, Any]) -> PriceVersion:
    moment = epoch(row["moment"])
    if moment is None:
        raise ValueError("no moment")

    def bucket(name: str, otherwise: str) -> int:
        value = row[name]
        return int(row[otherwise] if value is None else value)

    return PriceVersion(
        id=row["id"],
        effective_from=moment,
        input=row["input"],
        output=row["output"],
        cache_read=bucket("cache_read", "input"),
        cache_write_5m=bucket("cache_write_5m", "input"),
        cache_write_1h=bucket("cache_write_1h", "input"),
        audio_input=bucket("audio_input", "input"),
        image_input=bucket("image_input", "input"),
        reasoning=bucket("reasoning", "output"),
        audio_output=bucket("audio_output", "output"),
        request=row["request"],
        units=unit_prices(row["units"]),
    )


@dataclass(frozen=True, slots=True)
class _DeploymentLoader:
    """Turns rows into deployments, with all that they need from elsewhere."""

    providers: dict[int, _ReadyProvider]
    secrets: dict[int, _Secret]
    prices: Prices
    rules: PlaceRules
    settings: LiveSettings
    catalogue: Catalogue

    def load(self, problems: list[ConfigProblem]) -> dict[int, Deployment]:
        """Enabled deployments of enabled providers."""
        rows = DeploymentRow.objects.filter(enabled=True, provider_id__in=self.providers)
        return {row.pk: self._deployment(row, problems) for row in rows}

    def _deployment(self, row: DeploymentRow, problems: list[ConfigProblem]) -> Deployment:
        provider = self.providers[row.provider_id]
        authentication = _authentication(row, provider, self.secrets, problems)
        owners = f"deployment:{row.pk}", f"provider:{row.provider_id}"
        capabilities = self.catalogue.get((row.provider_id, row.model), Capabilities())
        return Deployment(
            id=row.pk,
            name=row.name,
            provider=provider.name,
            adapter=provider.adapter,
            base_url=provider.base_url,
            model=row.model,
            headers=authentication.headers,
            signer=authentication.signer,
            timeouts=Timeouts(
                row.connect_timeout_s, row.first_token_timeout_s, row.idle_timeout_s, row.total_timeout_s
            ),
            inject_usage=row.inject_usage and provider.adapter.takes_stream_options,
            prices=self._prices(row),
            batch_prices=self.prices.get((row.provider_id, f"{row.model}:batch"), ()),
            limits=self.rules.limits.all_of(*owners),
            budgets=self.rules.budgets.all_of(*owners),
            estimation=self.settings.estimation.of(provider.adapter.name),
            max_output_tokens=row.max_output_tokens or capabilities.max_output_tokens,
            max_request_pico_usd=row.max_request_pico_usd,
            drain_s=row.drain_s,
            problem=authentication.problem,
            capabilities=capabilities,
            probe=_probe(row) if row.probe_enabled else None,
            draining=row.draining,
            health_generation=row.health_generation,
        )

    def _prices(self, row: DeploymentRow) -> tuple[PriceVersion, ...]:
        own = self.prices.get((row.provider_id, row.model), ())
        default = self.settings.default_price
        return own if default is None else (default, *own)


def _probe(row: DeploymentRow) -> Probe:
    """A row that was written past every check must not make us ask without a pause."""
    usual = Probe()
    return Probe(
        row.probe_path,
        bounded(row.probe_interval_s, 1, 86_400, otherwise=usual.interval_s),
        bounded(row.probe_timeout_s, 0.1, 600, otherwise=usual.timeout_s),
        max(1, row.probe_unhealthy_after),
        max(1, row.probe_healthy_after),
    )


class _Authentication(NamedTuple):
    """What shows a provider who calls, and why it cannot be called."""

    headers: Headers = ()
    signer: Signer | None = None
    problem: str = ""


def _authentication(
    row: DeploymentRow, provider: _ReadyProvider, secrets: dict[int, _Secret], problems: list[ConfigProblem]
) -> _Authentication:
    secret = _Secret() if row.credential_id is None else secrets[row.credential_id]
    if secret.problem:
        return _Authentication(problem=secret.problem)
    if not provider.base_url:
        problem = f"The provider {provider.name} has no base URL; write one in the admin."
    else:
        try:
            return _Authentication(provider.adapter.headers(secret.text), provider.adapter.signer(secret.text))
        except ValueError:  # Its text may quote from the secret.
            problem = f"The credential of {row.name} is not one that {provider.adapter.name} takes; enter it again."
    problems.append(ConfigProblem("providers_deployment", str(row.pk), f"deployment {row.name}", problem))
    return _Authentication(problem=problem)

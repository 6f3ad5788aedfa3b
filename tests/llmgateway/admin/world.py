"""Rows of every kind, for pages that must open with something on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group
from django.utils import timezone

from billing.models import Alert, Budget, Delivery, Price, UsageRecord, UsageReporter, UsageRollup
from billing.money import PICO_PER_USD, pico_per_token
from llmgateway.models import ApiKey, AuthSource, GatewaySettings, NetworkList, RateLimit
from llmgateway.services import key_set_networks
from providers.models import AliasTarget, Credential, Deployment, ModelAlias, Provider
from tests.cast import Cast

STORED_SECRET = "sk-upstream-0123456789-never-shown"
SIGNING_SECRET = "whsec_bmV2ZXItc2hvd24tbmV2ZXItc2hvd24tMDEyMw=="
HEADER_SECRET = "Bearer header-never-shown"


@dataclass(frozen=True)
class World:
    cast: Cast
    key: ApiKey
    office: NetworkList
    provider: Provider
    credential: Credential
    deployment: Deployment
    alias: ModelAlias
    price: Price
    budget: Budget
    record: UsageRecord

    def objects(self) -> list[Any]:
        """One of each kind that has a page of its own."""
        return [
            self.cast.platform, self.key, self.office, self.provider, self.credential, self.deployment, self.alias,
            self.price, self.budget, self.record, self.cast.bob, RateLimit.objects.get(), AuthSource.objects.get(),
            UsageReporter.objects.get(), Delivery.objects.get(), Alert.objects.get(),
            GatewaySettings.objects.get(), Group.objects.get(name="Admins"),
        ]  # fmt: skip


def create_world(cast: Cast) -> World:
    key = cast.platform_key
    office = NetworkList.objects.create(name="office", networks=["10.0.0.0/8", "2001:db8::/32"])
    key_set_networks(key, [office])
    provider = Provider.objects.create(name="acme", adapter="openai_compatible", base_url="https://api.acme.example/v1")
    credential = Credential(provider=provider, name="main")
    credential.set_secret(STORED_SECRET)
    credential.save()
    deployment = Deployment.objects.create(name="acme-small", provider=provider, credential=credential, model="small-1")
    alias = ModelAlias.objects.create(name="small")
    AliasTarget.objects.create(alias=alias, deployment=deployment, weight=3)
    price = Price.objects.create(
        provider=provider, model="small-1", effective_from=timezone.now() - timedelta(days=30),
        input=pico_per_token("0.15"), output=pico_per_token("0.60"), cache_read=pico_per_token("0.075"),
    )  # fmt: skip
    budget = Budget.objects.create(name="month", team=cast.platform, limit_pico_usd=500 * PICO_PER_USD)
    RateLimit.objects.create(key=key, amount=60)
    create_reporter(budget)
    AuthSource.objects.get_or_create(name="database", defaults={"kind": AuthSource.Kind.DATABASE})
    GatewaySettings.objects.get_or_create(pk=1)
    return World(
        cast, key, office, provider, credential, deployment, alias, price, budget, create_record(key, record_id="req-1")
    )


def create_reporter(budget: Budget) -> None:
    """A webhook, an event that was given up, and an alert of `budget`."""
    reporter = UsageReporter(name="invoicing", url="https://hooks.acme.example/usage?token=in-the-url")
    reporter.set_secret(SIGNING_SECRET)
    reporter.set_headers({"Authorization": HEADER_SECRET})
    reporter.save()
    Delivery.objects.create(
        event_id="usage_req-1", type="usage", reporter=reporter, payload='{"request_id":"req-1"}', state="dead",
        attempts=16, last_error="HTTP 500", settled_at=timezone.now(),
    )  # fmt: skip
    Alert.objects.create(
        budget=budget, window_start=timezone.now(), threshold=80, settled_pico_usd=400 * PICO_PER_USD,
        limit_pico_usd=500 * PICO_PER_USD,
    )  # fmt: skip


def create_record(key: ApiKey, *, record_id: str, at: datetime | None = None, **values: Any) -> UsageRecord:
    """A request of `key` in the ledger, and its share of the rollups."""
    at = at or timezone.now()
    record = UsageRecord.objects.create(
        id=record_id, day=at.date(), started_at=at, key_id=str(key.pk), key_name=key.name, team_id=key.team_id,
        team_name=key.team.name, operation="chat", alias="small", provider="acme", deployment="acme-small",
        **{"status": "completed", "http_status": 200, "input": 1000, "output": 200, "cost_pico_usd": 270_000_000,
           "usage_source": "provider", "duration_us": 812_000, "ttft_us": 90_000, **values},
    )  # fmt: skip
    hour = at.replace(minute=0, second=0, microsecond=0)
    rollup, _ = UsageRollup.objects.get_or_create(
        hour=hour,
        team_id=key.team_id,
        key_id=str(key.pk),
        alias="small",
        status=record.status,
        code="mirror" if record.mirror_of else "",
    )
    rollup.requests += 1
    rollup.input_tokens += record.input
    rollup.output_tokens += record.output
    rollup.cost_pico_usd += record.cost_pico_usd
    rollup.save()
    return record

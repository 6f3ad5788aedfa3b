"""What the tests of the simple API have in common: houses whose models can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.route_rules import CacheRule, CacheSettings
from llmgateway.pipeline.snapshot import Deployment, Retries, Snapshot
from llmgateway.stores.cache_memory import MemoryAnswers
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import House, alias, deployment, snapshot

ASKED = {"query": "What is it?", "model": "gpt"}


ONCE = Retries(attempts=0)


def house(*replies: Reply | Exception, shot: Snapshot | None = None) -> House:
    return House(ScriptedUpstream(*replies), shot or snapshot(retries=ONCE))


def made_by(word: str, number: int, **changes: Any) -> Deployment:
    """A deployment at an adapter of a vendor that speaks OpenAI's dialect, so that one answer serves all."""
    return deployment(f"{word}-main", number, adapter=get_adapter(word), model=f"{word}-model", **changes)


def several(*aliases_of: Deployment, **changes: Any) -> Snapshot:
    made = [alias(f"alias-{each.name}", each) for each in aliases_of]
    return snapshot(*made, deployments=tuple(aliases_of), retries=ONCE, **changes)


def keeping_house(*script: Reply | Exception, **changes: Any) -> House:
    kept = replace(alias("gpt", deployment()), cache=CacheRule(ttl_s=60))
    place = house(*script, shot=snapshot(kept, cache=CacheSettings(enabled=True), retries=ONCE, **changes))
    place.gateway.caching = Caching(place.gateway, MemoryAnswers(place.clock))
    return place

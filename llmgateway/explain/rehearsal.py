"""Takes a request through everything that happens before its first upstream call, and notes what is found on the way.

Every decision is made by the very functions that decide about real requests, with the configuration, the health and the
counters of this moment. Nothing is taken, nobody's turn passes, nothing is sent or written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from llmgateway.api.calls import Named, request_of, with_what_was_kept
from llmgateway.api.inbound import read_body
from llmgateway.conf import Conf
from llmgateway.explain.question import Question
from llmgateway.pipeline import stand_ins
from llmgateway.pipeline.admission import Admission, AdmissionDesk
from llmgateway.pipeline.authentication import check, keys_by_source
from llmgateway.pipeline.caching import Plan
from llmgateway.pipeline.conditions import BudgetUsed, Facts
from llmgateway.pipeline.errors import AuthenticationError, GatewayError, LimitsUnavailableError
from llmgateway.pipeline.foresight import foreseen
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.parameters import with_parameters
from llmgateway.pipeline.protocols import CountersAwayError
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import RoutingRule
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.snapshot import Alias, Key, KeyDigest, Snapshot
from llmgateway.stores.rehearsal import RehearsalStore


@dataclass
class Findings:
    """As far as the request comes. What is None was not reached."""

    key: Key | None = None
    source: str = ""
    """Where the key was found."""
    request: ModelRequest | None = None
    routed: Routed | None = None
    trial_in_s: float | None = None
    """Everybody is out, and it would try whether one of them is well again after so many seconds."""
    awaits_s: float | None = None
    """Everybody is out, and it would wait so long at most for another request that is trying one of them."""
    rules: Rules | None = None
    matched: list[tuple[Alias, RoutingRule, bool]] = field(default_factory=list)
    """The rules that were looked at, and whether they hold."""
    plan: Plan | None = None
    """How kept answers concern it."""
    admission: Admission | None = None
    stands_in: Alias | None = None
    """The fallback that was admitted in place of the alias that was asked for."""
    refusal: GatewayError | None = None


class Rehearsal:
    """One request on its way. Belongs to the event loop of its gateway."""

    def __init__(self, gateway: Gateway, conf: Conf, question: Question) -> None:
        self.gateway = gateway
        self.store = RehearsalStore(gateway.store, gateway.clock)
        """What the counters stood at when they were asked."""
        self.found = Findings()
        self._conf = conf
        self._question = question
        self._desk = AdmissionDesk(self.store, gateway.clock)
        self._desk.terms = gateway.desk.terms

    async def run(self) -> Findings:
        """Never raises what would refuse a real request: that is in `refusal`."""
        try:
            await self._run()
        except CountersAwayError as error:
            self.found.refusal = LimitsUnavailableError(
                f"Limits and budgets cannot be checked now: {error}. What the operator chose for that moment decides.",
                headers=((b"retry-after", b"1"),),
            )
        except GatewayError as error:
            self.found.refusal = error
            self.found.key = self.found.key or error.key
        return self.found

    async def _run(self) -> None:
        found, gateway, question = self.found, self.gateway, self._question
        key = found.key = await self._key()
        found.source = await asyncio.to_thread(_source_of, gateway.snapshot, key)
        request = found.request = await self._request(key)
        found.routed, found.trial_in_s, found.awaits_s = await foreseen(gateway, request, key)
        routed = found.routed
        if routed.alias.rules:
            await self._match(request, key, routed)
        if gateway.snapshot.cache.enabled and gateway.caching is not None:
            found.plan = gateway.caching.plan(request, key, routed)
        if question.input_tokens is not None:
            request = found.request = msgspec.structs.replace(request, input_estimate=question.input_tokens)
        try:
            found.admission = await self._admitted_as(routed, request, key)
        except stand_ins.REFUSALS as refusal:
            await self._stand_in(routed, request, key, refusal)

    async def _key(self) -> Key:
        gateway, question = self.gateway, self._question
        if not question.key_id:
            return await gateway.authenticate(question.secret, client_ip=question.client_ip)
        found = await asyncio.to_thread(_key_of, gateway.snapshot, question.key_id)
        if found is None:
            raise AuthenticationError(
                "There is no key of this id in the configuration that is in force; it may be revoked."
            )
        self.found.key = found
        check(found, client_ip=question.client_ip, now=gateway.clock.time())
        return found

    async def _request(self, key: Key) -> ModelRequest:
        gateway, question = self.gateway, self._question
        named = Named(question.model, False) if question.names_model_in_path else Named()
        exchange = question.exchange(gateway, self._conf)
        limit = gateway.snapshot.request_body_limit
        body = await read_body(exchange.receive, exchange.inbound, limit, timeout_s=exchange.body_timeout_s)
        request = request_of(exchange, body, named, authenticated=exchange.received)
        if request.dialect.refers_to_kept:
            request = await with_what_was_kept(gateway, request, key, native=False)
        return request

    async def _match(self, request: ModelRequest, key: Key, routed: Routed) -> None:
        """Which rules were looked at on the way, each alias's up to the first that holds."""
        gateway = self.gateway
        try:
            used = await gateway.budget_used(request, key)
        except CountersAwayError:
            used = BudgetUsed(None)
        facts = Facts(request, key, now=gateway.clock.time(), budget_used=used)
        for alias in (routed.alias, *routed.hops):
            for rule in alias.rules:
                holds = gateway.router.conditions.hold(alias.name, rule, facts)
                self.found.matched.append((alias, rule, holds))
                if holds and rule.use in {hop.name for hop in routed.hops}:
                    break

    async def _admitted_as(self, routed: Routed, request: ModelRequest, key: Key) -> Admission:
        gateway = self.gateway
        if routed.alias.parameters is not None:
            request = with_parameters(request, (routed.alias,))
        rules = gateway.rules(request, key, routed.alias, routed.via)
        self.found.rules = self.found.rules or rules
        settings = replace(gateway.snapshot.admission, hold_wait_ms=0)
        return await self._desk.admit(request, rules, routed.candidates, settings)

    async def _stand_in(self, routed: Routed, request: ModelRequest, key: Key, refusal: GatewayError) -> None:
        """As the first of the fallbacks that has room, if one has."""
        gateway, cause = self.gateway, stand_ins.cause_of(refusal)
        self.found.refusal = refusal
        if cause is None or not routed.reached.fallbacks:
            return
        now = gateway.clock.time()
        others = gateway.router.fallbacks(gateway.snapshot, key, request, routed.reached, cause, now=now, dry_run=True)
        for other in stand_ins.each_alias(others) if others is not None else ():
            try:
                self.found.admission = await self._admitted_as(other, request, key)
            except stand_ins.REFUSALS:
                continue
            self.found.stands_in, self.found.refusal = other.alias, None
            return


def _key_of(snapshot: Snapshot, key_id: str) -> Key | None:
    for _, keys in keys_by_source(snapshot):
        found = next((each.key for each in keys.values() if each.key.id == key_id), None)
        if found is not None:
            return found
    return None


def _source_of(snapshot: Snapshot, key: Key) -> str:
    """The first place that has the key; empty: it changed in this moment."""

    def has(keys: Mapping[bytes, KeyDigest]) -> bool:
        return any(each.key is key for each in keys.values())

    return next((name for name, keys in keys_by_source(snapshot) if has(keys)), "")

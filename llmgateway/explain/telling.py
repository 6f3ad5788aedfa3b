"""What a rehearsal has found, as JSON and for pages: no secret, nothing of what was said."""

from __future__ import annotations

import ipaddress
import os

from billing.money import plain, usd, usd_per_million
from billing.pricing import PriceVersion, in_force
from llmgateway.explain.rehearsal import Findings, Rehearsal
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.snapshot import Deployment, Key, Networks
from providers.adapters.types import JSONObject


def told(rehearsal: Rehearsal) -> JSONObject:
    """Everything, in the order in which it is decided."""
    found = rehearsal.found
    return {
        "decision": _decision(found),
        "key": None if found.key is None else _key(found.key, found.source),
        "request": _request(found),
        "model": _model(found),
        "rules": [
            {"alias": alias.name, "rule": rule.name, "when": rule.when, "leads_to": rule.use, "holds": holds}
            for alias, rule, holds in found.matched
        ],
        "targets": _targets(rehearsal),
        "limits": _limits(rehearsal),
        "budgets": _budgets(rehearsal),
        "hold": _hold(found),
        "cache": _cache(rehearsal),
        "load": _load(rehearsal),
        "revision": rehearsal.gateway.snapshot.revision,
        "worker": os.getpid(),
    }


def _decision(found: Findings) -> JSONObject:
    if found.refusal is not None:
        return {"allowed": False, **_refusal(found.refusal)}
    admission = found.admission
    assert admission is not None, "who is not refused is admitted"
    return {
        "allowed": True,
        "status": 200,
        "code": "",
        "message": _sent_to(admission.deployment, found),
        "deployment": admission.deployment.name,
        "alias": admission.rules.alias.name,
        "stands_in": found.stands_in is not None,
        "output_cap": admission.output_cap,
        "trial_in_s": found.trial_in_s,
        "awaits_s": found.awaits_s,
    }


def _sent_to(deployment: Deployment, found: Findings) -> str:
    place = f"'{deployment.name}' of the provider '{deployment.provider}'"
    if found.awaits_s is not None:
        return (
            f"All deployments of the model are out at present, and another request is trying {place}; it would be sent there "
            f"if that answers within {found.awaits_s:.1f} s, and be refused with 503 otherwise."
        )
    if found.trial_in_s is None:
        return f"It would be sent to {place}."
    when = f"after {found.trial_in_s:.1f} s" if found.trial_in_s else "at once"
    return f"All deployments of the model are out at present; {when} it would be sent to {place}, to try whether that answers again."


def _refusal(error: GatewayError) -> JSONObject:
    headers = {name.decode(): value.decode("latin-1") for name, value in error.headers}
    return {"status": error.status, "code": error.code, "message": error.message, "headers": headers}


def _key(key: Key, source: str) -> JSONObject:
    return {
        "id": key.id,
        "name": key.name,
        "team": key.team_name,
        "source": source,
        "enabled": key.enabled,
        "priority": key.priority,
        "models": None if key.models is None else sorted(key.models),
        "networks": None if key.networks is None else _networks(key.networks),
    }


def _networks(networks: Networks) -> list[str]:
    v4 = [ipaddress.IPv4Network((address, str(ipaddress.IPv4Address(mask)))) for address, mask in networks.v4]
    v6 = [ipaddress.IPv6Network((address, mask.bit_count())) for address, mask in networks.v6]
    return [str(network) for network in (*v4, *v6)]


def _request(found: Findings) -> JSONObject | None:
    request = found.request
    if request is None:
        return None
    demand = None if found.admission is None else found.admission.ask.demand
    return {
        "path": request.path,
        "client_ip": request.client_ip,
        "end_user": request.end_user,
        "stream": bool(request.head.stream),
        "input_tokens": None if demand is None else demand.input,
        "output_tokens": None if demand is None else demand.output,
    }


def _model(found: Findings) -> JSONObject | None:
    routed = found.routed
    if routed is None:
        return None
    return {
        "alias": routed.alias.name,
        "strategy": routed.reached.strategy,
        "led_to": [alias.name for alias in routed.hops],
        "fallbacks": [{"cause": str(each.cause), "use": each.alias} for each in routed.reached.fallbacks],
        "stands_in": None if found.stands_in is None else found.stands_in.name,
    }


def _targets(rehearsal: Rehearsal) -> list[JSONObject]:
    """Every target of the alias, those first that would be tried, in their order."""
    routed = rehearsal.found.routed
    if routed is None:
        return []
    admission = rehearsal.found.admission
    tried = routed.candidates if admission is None else admission.in_order
    others = [each for each in routed.reached.deployments if each.id not in {one.id for one in tried}]
    listed = [(number, each) for number, each in enumerate(tried, 1)] + [(None, each) for each in others]
    return [_target(rehearsal, each, order) for order, each in listed]


def _target(rehearsal: Rehearsal, deployment: Deployment, order: int | None) -> JSONObject:
    gateway, found = rehearsal.gateway, rehearsal.found
    assert found.routed is not None
    standing = gateway.health.state_of(deployment)
    now = gateway.clock.time()
    terms = None
    if found.admission is not None and deployment in found.admission.ask.candidates:
        terms = found.admission.ask.targets[found.admission.ask.candidates.index(deployment)]
    return {
        "order": order,
        "deployment": deployment.name,
        "provider": deployment.provider,
        "model": deployment.model,
        "via": [alias.name for alias in found.routed.via.get(deployment.id, ())],
        "health": standing.state,
        "failure": standing.kind if standing.out else "",
        "problem": deployment.problem,
        "in_flight": gateway.traffic.in_flight(deployment.id),
        "price": _price(in_force(deployment.prices, now)),
        "expected_usd": None if terms is None else _usd(terms.expected_pico_usd),
    }


def _price(price: PriceVersion | None) -> JSONObject | None:
    if price is None:
        return None
    return {
        "id": price.id,
        "input_per_1m_usd": plain(usd_per_million(price.input)),
        "output_per_1m_usd": plain(usd_per_million(price.output)),
        "per_request_usd": _usd(price.request),
        "is_default": price.is_default,
    }


def _limits(rehearsal: Rehearsal) -> list[JSONObject]:
    return [
        {
            "scope": limit.scope,
            "name": limit.name,
            "metric": limit.metric,
            "per": limit.per,
            "amount": limit.amount,
            "used": used,
            "remaining": max(0, max(limit.amount, limit.burst) - used),
            "shadow": limit.shadow,
        }
        for limit, used in rehearsal.store.limits.values()
    ]


def _budgets(rehearsal: Rehearsal) -> list[JSONObject]:
    now = rehearsal.gateway.clock.time()
    return [
        {
            "scope": budget.scope,
            "name": budget.name,
            "window": budget.window,
            "strict": budget.strict,
            "limit_usd": _usd(budget.limit_at(now)),
            "settled_usd": _usd(state.settled_pico_usd),
            "held_usd": _usd(state.held_pico_usd),
            "remaining_usd": _usd(budget.limit_at(now) - state.settled_pico_usd - state.held_pico_usd),
        }
        for budget, state in rehearsal.store.budgets.values()
    ]


def _hold(found: Findings) -> JSONObject | None:
    """What it would hold while it runs."""
    if found.admission is None:
        return None
    granted = found.admission.reservation.granted_pico_usd
    return {
        "held_usd": _usd(found.admission.held_pico_usd),
        "strict_usd": None if granted is None else _usd(granted),
        "in": [window.budget.name for window in found.admission.reservation.windows],
    }


def _cache(rehearsal: Rehearsal) -> JSONObject:
    plan = rehearsal.found.plan
    if plan is None:
        return {"concerned": False}
    rule = plan.rule
    return {
        "concerned": True,
        "reads": plan.reads,
        "ttl_s": plan.ttl_s,
        "mode": "exact" if rule is None else rule.mode,
        "asked_by": "the request" if rule is None else "the alias",
    }


def _load(rehearsal: Rehearsal) -> JSONObject:
    turns = rehearsal.gateway.turns
    bound = turns.rules.max_in_flight
    return {
        "in_flight": turns.taken,
        "max_in_flight": bound,
        "queued": turns.queued,
        "would_wait": 0 < bound <= turns.taken,
    }


def _usd(pico_usd: int) -> str:
    return plain(usd(pico_usd))

"""Questions with a price tag: at most so much, not at all, or only what it would cost."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from billing.money import plain, usd, usd_per_million
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.model_choice import Choice
from llmgateway.api.query import answer_to, asked, choices_of, tell
from llmgateway.api.query_answers import Problem, dollars, ids, timestamp
from llmgateway.api.query_fields import Estimate, GatewayQuery, expected_output
from llmgateway.api.query_reading import acting_for, fields_of, question
from llmgateway.api.responses import JSON
from llmgateway.pipeline.estimates import Quote, quote
from llmgateway.pipeline.foresight import foreseen
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Deployment, Key
from providers.adapters.types import JSONObject


async def ask_within_limits(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /v1/gateway/query`: perhaps in another team's name, within a largest price, or as a rehearsal."""
    key, fields = await fields_of(gateway, exchange, GatewayQuery)
    key = exchange.key = acting_for(key, fields.tenant)
    choice = choices_of(gateway, key).choose(fields.model, fields.model_version)
    request = msgspec.structs.replace(question(exchange, choice, fields), spending=fields.spending)
    if fields.dry_run:
        exchange.head = request.head
        answer = await _rehearsed(gateway, request, key, choice, output_tokens=fields.expected_output)
        exchange.is_listing = True
        await exchange.responder.whole(200, orjson.dumps(answer), [JSON])
        return
    collected = await asked(gateway, exchange, request, key)
    outcome = answer_to(gateway, exchange, request, choice, collected)
    if not isinstance(outcome, Problem):
        told = collected.told()
        found = _deployment(gateway, request, told.get(b"x-gateway-deployment", b"").decode())
        now = gateway.clock.time()
        estimate = None if found is None else quote(request, found, now=now, output_tokens=fields.expected_output)
        outcome["estimated_cost_usd"] = None if estimate is None else _cost(estimate)
        outcome["actual_cost_usd"] = outcome.pop("cost_usd")
        outcome["tenant"] = key.team_name
    await tell(exchange, collected, outcome)


async def _rehearsed(
    gateway: Gateway, request: ModelRequest, key: Key, choice: Choice, *, output_tokens: int
) -> JSONObject:
    """Everything up to limits and budgets, which are not asked; nothing is sent, taken or written down."""
    routed = (await foreseen(gateway, request, key)).routed
    candidates, now = routed.candidates, gateway.clock.time()
    if request.spending is not None:
        rules = gateway.rules(request, key, routed.alias, routed.via)
        candidates = gateway.desk.terms.ask(request, rules, candidates, gateway.snapshot.admission, now=now).candidates
    return {
        "dry_run": True,
        "tenant": key.team_name,
        "alias": routed.alias.name,
        "route": [deployment.name for deployment in candidates],
        **quote_told(choice, quote(request, candidates[0], now=now, output_tokens=output_tokens)),
        "timestamp": timestamp(now),
        **ids(request.id, request.client_request_id),
    }


async def estimate_cost(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /v1/gateway/cost-estimate`: by the price and the function of the bill."""
    key, fields = await fields_of(gateway, exchange, Estimate)
    key = exchange.key = acting_for(key, fields.tenant)
    choice = choices_of(gateway, key).choose(fields.model, fields.model_version)
    request = question(exchange, choice, fields)
    exchange.head = request.head
    routed = (await foreseen(gateway, request, key)).routed
    found = quote(
        request,
        routed.candidates[0],
        now=gateway.clock.time(),
        output_tokens=expected_output(fields.expected_response_tokens),
        input_tokens=fields.input_tokens,
    )
    exchange.is_listing = True
    answer = {**quote_told(choice, found), "request_id": request.id}
    await exchange.responder.whole(200, orjson.dumps(answer), [JSON])


def quote_told(choice: Choice, found: Quote) -> JSONObject:
    """A quote in the words of an answer. Amounts are numbers of which every digit is written."""
    deployment, price = found.deployment, found.price
    told: JSONObject = {
        "model": choice.asked,
        "model_version": deployment.model,
        "provider": deployment.provider,
        "deployment": deployment.name,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "priced": price is not None,
        "estimated_cost_usd": _cost(found),
    }
    if price is None:
        return told | {
            "input_per_1m_usd": None,
            "output_per_1m_usd": None,
            "message": f"The model '{deployment.model}' of '{deployment.provider}' has no price. Ask an admin to add one.",
        }
    told |= {
        "input_per_1m_usd": orjson.Fragment(plain(usd_per_million(price.input))),
        "output_per_1m_usd": orjson.Fragment(plain(usd_per_million(price.output))),
        "price_per_input_token": orjson.Fragment(plain(usd(price.input))),
        "price_per_output_token": orjson.Fragment(plain(usd(price.output))),
    }
    return {**told, "per_request_usd": dollars(price.request)} if price.request else told


def _cost(found: Quote) -> Any:
    return None if found.pico_usd is None else dollars(found.pico_usd)


def _deployment(gateway: Gateway, request: ModelRequest, name: str) -> Deployment | None:
    snapshot = gateway.snapshot
    alias = snapshot.aliases.get(request.head.model)
    known = (*(alias.deployments if alias else ()), *snapshot.deployments)
    return next((each for each in known if each.name == name), None)

"""The models that a key may call now: what every surface lists and shows, each in its own words."""

from __future__ import annotations

from datetime import UTC, datetime

from billing.money import plain, usd_per_million
from llmgateway.api.exchange import HttpExchange
from llmgateway.pipeline.capabilities import capabilities_of, dearest_of
from llmgateway.pipeline.errors import NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.routing import check_in_service
from llmgateway.pipeline.snapshot import Alias, Key
from providers.adapters.types import JSONObject


async def callable_models(gateway: Gateway, exchange: HttpExchange) -> list[Alias]:
    """All that may be called with the key of this request, in the order of the configuration.

    Raises:
        AuthenticationError, PermissionDeniedError: the key may not be used.
    """
    key = await _key(gateway, exchange)
    now = gateway.clock.time()
    return [alias for alias in gateway.snapshot.aliases.values() if _may_call(key, alias) and not alias.is_retired(now)]


async def callable_model(gateway: Gateway, exchange: HttpExchange, name: str) -> Alias:
    """One of them.

    Raises:
        AuthenticationError, PermissionDeniedError: the key may not be used.
        NotFoundError: there is no such model, the key may not call it, or it has retired.
    """
    key = await _key(gateway, exchange)
    alias = gateway.snapshot.aliases.get(name)
    if alias is None or not _may_call(key, alias):
        raise NotFoundError(
            f"The model '{name}' does not exist or is not allowed for this key. GET /v1/models lists those that are.",
            code="model_not_found",
            param="model",
        )
    check_in_service(alias, gateway.clock.time())
    return alias


async def _key(gateway: Gateway, exchange: HttpExchange) -> Key:
    key = exchange.key = await gateway.authenticate(exchange.inbound.secret, client_ip=exchange.client_ip)
    return key


def _may_call(key: Key, alias: Alias) -> bool:
    return key.models is None or alias.name in key.models


def facts_of(alias: Alias, now: float) -> JSONObject:
    """What is known of a model beside its name, in the gateway's own words; what is not known is not there."""
    can, price = capabilities_of(alias), dearest_of(alias, now)
    facts: JSONObject = {
        "context_window": can.context_window,
        "max_output_tokens": can.max_output_tokens,
        "input_modalities": list(can.input_modalities),
        "output_modalities": list(can.output_modalities),
        "tools": can.tools,
        "reasoning": can.reasoning,
        "usd_per_million": None
        if price is None
        else {"input": plain(usd_per_million(price[0])), "output": plain(usd_per_million(price[1]))},
        "deprecated_on": can.deprecated_on,
        "retires_at": "" if alias.retires_at is None else moment(alias.retires_at),
        "replacement": alias.replacement,
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [])}


def moment(seconds: float) -> str:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")

"""The simple API's paths, and those of its answers that ask no model."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs

from llmgateway.api.exchange import HttpExchange
from llmgateway.api.model_choice import CHAT
from llmgateway.api.query import ask_one, ask_several, choices_of
from llmgateway.api.query_answers import SECURITY_LINES, FlatErrors
from llmgateway.api.query_fields import Download
from llmgateway.api.query_money import ask_within_limits, estimate_cost
from llmgateway.api.query_reading import fields_of
from llmgateway.api.routes import CALL, READ, Route
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.snapshot import Deployment
from providers.adapters.types import JSONObject

FLAT = FlatErrors()
_ENDPOINTS = (
    ("/api/query", CALL, ask_one),
    ("/api/parallel", CALL, ask_several),
    ("/v1/gateway/query", CALL, ask_within_limits),
    ("/v1/gateway/cost-estimate", CALL, estimate_cost),
)


def routes() -> dict[str, Route]:
    """Errors below `/v1` have OpenAI's shape, as all there."""
    endpoints = (*_ENDPOINTS, ("/api/status", READ, show_status), ("/api/download", CALL, make_file))
    return {
        path: Route(methods, endpoint, FLAT if path.startswith("/api/") else CHAT, path, SECURITY_LINES)
        for path, methods, endpoint in endpoints
    }


async def show_status(gateway: Gateway, exchange: HttpExchange) -> None:
    """`GET /api/status`: whether this key finds somebody well behind each word; `?details=true` says more of providers."""
    key = exchange.key = await gateway.authenticate(exchange.inbound.secret, client_ip=exchange.client_ip)
    choices = choices_of(gateway, key)
    answer: JSONObject = {word: _any_well(gateway, choices.behind(word)) for word in choices.words()}
    details = parse_qs(exchange.query.decode("latin-1")).get("details", ["false"])[0]
    if details.lower() in {"true", "1"}:
        names = sorted({deployment.provider for deployment in choices.deployments()})
        answer["providers"] = {name: gateway.health.state(name) for name in names}
    exchange.is_listing = True
    await exchange.responder.json(200, answer)


def _any_well(gateway: Gateway, deployments: Sequence[Deployment]) -> bool:
    able = tuple([each for each in deployments if not each.problem])
    return any(gateway.health.state(each.provider) != "down" for each in gateway.health.usable(able))


async def make_file(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /api/download`: a text that came as an answer, as a file."""
    _, fields = await fields_of(gateway, exchange, Download)
    exchange.is_listing = True
    headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-disposition", b'attachment; filename="llm_response.txt"'),
    )
    await exchange.responder.whole(200, (fields.response or "").encode(), headers)

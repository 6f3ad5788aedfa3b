"""The simple API: a question in plain fields, an answer in plain fields. Every call of a model goes through the pipeline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import NamedTuple

import msgspec
import orjson

from llmgateway.api.access_lines import log_answer
from llmgateway.api.collecting import Collector, OneOfSeveral, SharedWatch
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.model_choice import CHAT, Choice, Choices
from llmgateway.api.query_answers import Problem, answered, failed, problem_of, timestamp
from llmgateway.api.query_fields import ParallelQuery, Query
from llmgateway.api.query_reading import fields_of, question
from llmgateway.api.responses import JSON, DisconnectWatch
from llmgateway.pipeline.errors import GatewayError, NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest, Presence
from llmgateway.pipeline.snapshot import Key
from providers.adapters.dialects.base import WireError
from providers.adapters.types import JSONObject

logger = logging.getLogger(__name__)


async def ask_one(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /api/query`."""
    key, fields = await fields_of(gateway, exchange, Query)
    choice = choices_of(gateway, key).choose(fields.model, fields.model_version)
    request = question(exchange, choice, fields)
    collected = await asked(gateway, exchange, request, key)
    answer = answer_to(gateway, exchange, request, choice, collected)
    await tell(exchange, collected, answer)


async def ask_several(gateway: Gateway, exchange: HttpExchange) -> None:
    """`POST /api/parallel`: all at once, each a request of its own; what fails is told among the answers."""
    key, fields = await fields_of(gateway, exchange, ParallelQuery)
    choices = choices_of(gateway, key)
    models = fields.models or [word for word in choices.words() if choices.behind(word)]
    if not models:
        raise NotFoundError(
            "No model is set up for this key under any of the usual words. Name some in `models`; GET /v1/models lists "
            "them.",
            code="model_not_found",
            param="models",
        )
    watch = exchange.watch = SharedWatch(exchange.receive)
    survey = Survey(gateway, exchange, key, fields, watch)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {model: group.create_task(survey.ask(model, at)) for at, model in enumerate(models, 1)}
    finally:
        watch.stop()
    answer = {
        "responses": {model: task.result() for model, task in tasks.items()},
        "request_id": exchange.request_id,
        "timestamp": timestamp(gateway.clock.time()),
        "elapsed_time_ms": round(_took_s(gateway, exchange) * 1000),
    }
    await exchange.responder.whole(200, orjson.dumps(answer), [JSON])


class Survey(NamedTuple):
    """One question to several models. Each is a request of its own, with the survey's id and a number behind it."""

    gateway: Gateway
    exchange: HttpExchange
    key: Key
    fields: ParallelQuery
    watch: SharedWatch

    async def ask(self, model: str, number: int) -> JSONObject:
        """The answer of one model, or why there is none. Nothing but its cancellation leaves here."""
        gateway = self.gateway
        own = msgspec.structs.replace(self.exchange, request_id=f"{self.exchange.request_id}.{number}", head=None)
        choice = Choice(model, model)
        try:
            choice = choices_of(gateway, self.key).choose(model, (self.fields.model_versions or {}).get(model))
            request = question(own, choice, self.fields)
            own.head = request.head
            collected = await _complete(gateway, request, self.key, OneOfSeveral(self.watch))
            answer = answer_to(gateway, own, request, choice, collected)
        except GatewayError as error:
            log_answer(gateway, own, error.status, error.code)
            answer = Problem.of(error)
        except Exception:
            logger.exception("a request failed inside the gateway", extra={"request_id": own.request_id})
            answer = Problem(500, "Something went wrong inside the gateway. Try again.", "internal_error")
        if isinstance(answer, Problem):
            return failed(own, choice, answer, now=gateway.clock.time(), took_s=_took_s(gateway, own))
        return answer


def choices_of(gateway: Gateway, key: Key) -> Choices:
    return Choices(gateway.snapshot, key, gateway.clock.time())


async def asked(gateway: Gateway, exchange: HttpExchange, request: ModelRequest, key: Key) -> Collector:
    """The answer to a request whose only answer is the exchange's."""
    exchange.head = request.head
    watch = exchange.watch = DisconnectWatch(exchange.receive)
    try:
        return await _complete(gateway, request, key, watch)
    finally:
        watch.stop()


async def _complete(gateway: Gateway, request: ModelRequest, key: Key, presence: Presence) -> Collector:
    collected = Collector()
    await gateway.complete(request, key, collected, presence)
    return collected


def answer_to(
    gateway: Gateway, exchange: HttpExchange, request: ModelRequest, choice: Choice, collected: Collector
) -> JSONObject | Problem:
    took_s = _took_s(gateway, exchange)
    return answered(request, choice, collected, gateway.snapshot, now=gateway.clock.time(), took_s=took_s)


def _took_s(gateway: Gateway, exchange: HttpExchange) -> float:
    return gateway.clock.monotonic() - exchange.received


def tell(exchange: HttpExchange, collected: Collector, answer: JSONObject | Problem) -> Awaitable[None]:
    """Send the answer, or the error in the words of the path, with the gateway's own headers."""
    responder = exchange.responder
    if not isinstance(answer, Problem):
        return responder.whole(200, orjson.dumps(answer), [JSON], collected.lines)
    if collected.failure is not None:
        return responder.error(collected.failure, collected.lines)
    dialect = responder.dialect
    if dialect is CHAT and problem_of(collected) is not None:
        return responder.whole(answer.status, collected.body, collected.headers, collected.lines)
    body = dialect.error_body(WireError(answer.status, answer.message, "server_error", answer.code))
    headers = [header for header in collected.headers if header[0] == b"retry-after"]
    return responder.whole(answer.status, body, [*headers, JSON], collected.lines)

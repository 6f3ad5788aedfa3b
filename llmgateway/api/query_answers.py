"""What the simple API answers: flat objects, errors as one text, and the headers that browsers are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import orjson

from billing.money import exact_usd
from llmgateway.api.collecting import Collector
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.model_choice import Choice
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.header_lines import HeaderLines
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Snapshot
from providers.adapters.dialects.base import Dialect, WireError
from providers.adapters.dialects.errors import error_message
from providers.adapters.types import JSONObject, Operation

SECURITY_LINES: HeaderLines = (
    b"x-content-type-options: nosniff\r\nx-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n"
    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\ncache-control: no-store\r\n"
)
"""On every answer of the simple API. `Strict-Transport-Security` is for whoever ends TLS."""


_KEPT = (b"hit", b"semantic")
"""What the cache says of an answer that it has kept."""


class FlatErrors(Dialect):
    """Errors below `/api`: `{"error": "what happened", "error_type": "its code"}`."""

    name = "simple.query"
    operation: ClassVar[Operation] = Operation.CHAT

    def error_body(self, error: WireError) -> bytes:
        body = {"error": error.message, "error_type": error.code}
        return msgspec.json.encode({**body, "param": error.param} if error.param else body)


class Problem(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    status: int
    message: str
    code: str
    param: str | None = None

    @classmethod
    def of(cls, error: GatewayError) -> Problem:
        return cls(error.status, error.message, error.code, error.param)


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""


_read_completion = msgspec.json.Decoder(_Completion).decode


def problem_of(collected: Collector) -> Problem | None:
    """What went wrong, in the gateway's words or the provider's; None: nothing did."""
    if collected.failure is not None:
        return Problem.of(collected.failure)
    if collected.status < 400:
        return None
    try:
        said = orjson.loads(collected.body)
    except orjson.JSONDecodeError:
        said = None
    told: JSONObject | None = said if isinstance(said, dict) else None
    error = told.get("error") if told else None
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    message = error_message(told) or f"The provider answered with status {collected.status}."
    return Problem(collected.status, message, code if isinstance(code, str) else "upstream_error")


def answer_of(collected: Collector) -> tuple[str, str, str] | None:
    """The text of an answer, why it ended, and the model that gave it; None: it is not to be understood."""
    try:
        completion = _read_completion(collected.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not completion.choices:
        return None
    first = completion.choices[0]
    return first.message.content or first.message.refusal or "", first.finish_reason or "", completion.model


UNREADABLE = Problem(502, "The model's answer cannot be read. Try again, or ask another model.", "upstream_error")


def answered(
    request: ModelRequest, choice: Choice, collected: Collector, snapshot: Snapshot, *, now: float, took_s: float
) -> JSONObject | Problem:
    """The answer to a question, in the gateway's own words."""
    if problem := problem_of(collected):
        return problem
    said = answer_of(collected)
    if said is None:
        return UNREADABLE
    text, finish_reason, response_model = said
    told = collected.told()
    input_tokens, output_tokens = _count(told, b"x-llm-input-tokens"), _count(told, b"x-llm-output-tokens")
    deployment, instead = (told.get(name, b"").decode() for name in (b"x-gateway-deployment", b"x-gateway-fallback"))
    answer: JSONObject = {
        "response": text,
        "model": instead or choice.asked,
        "model_version": _version(snapshot, choice, instead or choice.model, deployment) or response_model,
        "provider": told.get(b"x-gateway-provider", b"").decode(),
        "response_time_ms": round(took_s * 1000),
        "timestamp": timestamp(now),
        "cached": told.get(b"x-gateway-cache") in _KEPT,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "num_tokens": input_tokens + output_tokens,
        "num_retries": max(0, _count(told, b"x-gateway-attempts") - 1),
        "cost_usd": orjson.Fragment(told.get(b"x-gateway-cost-usd", b"0")),
        "finish_reason": finish_reason,
        **ids(request.id, request.client_request_id),
    }
    return answer | {"original_model": choice.asked, "fallback_model": instead} if instead else answer


def failed(exchange: HttpExchange, choice: Choice, problem: Problem, *, now: float, took_s: float) -> JSONObject:
    """What stands in place of an answer among those of several models."""
    return {
        "response": "",
        "model": choice.asked,
        "response_time_ms": round(took_s * 1000),
        "timestamp": timestamp(now),
        "cached": False,
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "num_tokens": 0,
        "num_retries": 0,
        "error": problem.message,
        "error_type": problem.code,
        **ids(exchange.request_id, exchange.inbound.client_request_id),
    }


def ids(request_id: str, client_request_id: str) -> JSONObject:
    """The gateway's id of a request, and the caller's if there is one."""
    told = {"request_id": request_id}
    return {**told, "client_request_id": client_request_id} if client_request_id else told


def timestamp(now: float) -> str:
    """Seconds since the epoch as a time in UTC, to the millisecond."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dollars(pico_usd: int) -> Any:
    """Pico-dollars as a number in JSON that is exact: every digit is written."""
    return orjson.Fragment(exact_usd(pico_usd))


def _count(told: dict[bytes, bytes], name: bytes) -> int:
    return int(told.get(name, b"0"))


def _version(snapshot: Snapshot, choice: Choice, alias: str, deployment: str) -> str:
    """The provider's name of the model that has answered; empty: nobody knows."""
    if choice.provider:
        return choice.model
    answering = snapshot.aliases.get(alias)
    known = (*snapshot.deployments, *(answering.deployments if answering else ()))
    return next((each.model for each in known if each.name == deployment), "")

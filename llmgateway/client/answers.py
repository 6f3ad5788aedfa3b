"""What the gateway answers, as values. Amounts are exact."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

Value = TypeVar("Value", bound="Chat | QueryAnswer | Estimate")


@dataclass(frozen=True, slots=True)
class Chat:
    """The answer to a chat."""

    text: str
    model: str
    """The model that was asked for."""
    finish_reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    cached: bool = False
    attempts: int = 0
    """Upstream calls that it took."""
    request_id: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The whole answer, with tool calls and whatever else the provider said."""


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The answer to a plain question; in `Parallel` perhaps why there is none."""

    response: str = ""
    model: str = ""
    """The one that answered: another than was asked for where `original_model` is set."""
    model_version: str = ""
    provider: str = ""
    cached: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    num_retries: int = 0
    response_time_ms: int = 0
    timestamp: str = ""
    finish_reason: str = ""
    request_id: str = ""
    client_request_id: str = ""
    original_model: str = ""
    fallback_model: str = ""
    estimated_cost_usd: Decimal | None = None
    actual_cost_usd: Decimal | None = None
    cost_usd: Decimal | None = None
    """The same as `actual_cost_usd`, which answers of several models have not."""
    tenant: str = ""
    error: str = ""
    error_type: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a question would cost."""

    model: str = ""
    model_version: str = ""
    provider: str = ""
    deployment: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    priced: bool = False
    estimated_cost_usd: Decimal | None = None
    """None: the model has no price."""
    input_per_1m_usd: Decimal | None = None
    output_per_1m_usd: Decimal | None = None
    message: str = ""
    request_id: str = ""
    route: tuple[str, ...] = ()
    """The deployments in the order in which they would be tried; of a dry run alone."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """The answers of several models to one question."""

    responses: Mapping[str, QueryAnswer]
    request_id: str
    elapsed_time_ms: int

    @property
    def failed(self) -> dict[str, QueryAnswer]:
        return {model: answer for model, answer in self.responses.items() if answer.error}


@dataclass(frozen=True, slots=True)
class Status:
    """Whether somebody well stands behind each word for a vendor, and how the providers are."""

    available: Mapping[str, bool]
    providers: Mapping[str, str]


def exactly(body: bytes) -> Any:
    """JSON whose fractions stay what they are."""
    return json.loads(body, parse_float=Decimal)


def chat_of(body: bytes, headers: Mapping[str, str], model: str) -> Chat:
    raw = json.loads(body)
    first = (raw.get("choices") or [{}])[0]
    message = first.get("message") or {}
    usage = raw.get("usage") or {}
    cost = headers.get("x-gateway-cost-usd")
    return Chat(
        text=message.get("content") or message.get("refusal") or "",
        model=headers.get("x-gateway-model", model),
        finish_reason=first.get("finish_reason") or "",
        input_tokens=int(headers.get("x-llm-input-tokens", usage.get("prompt_tokens") or 0)),
        output_tokens=int(headers.get("x-llm-output-tokens", usage.get("completion_tokens") or 0)),
        cost_usd=None if cost is None else Decimal(cost),
        cached=headers.get("x-gateway-cache") in {"hit", "semantic"},
        attempts=int(headers.get("x-gateway-attempts", 0)),
        request_id=headers.get("x-request-id", ""),
        raw=raw,
    )


def value_of(kind: type[Value], told: Mapping[str, Any]) -> Value:
    """`told` as a `kind`; fields of a newer gateway that this client does not know are left out."""
    known = {each.name: told[each.name] for each in dataclasses.fields(kind) if told.get(each.name) is not None}
    for each in dataclasses.fields(kind):
        if each.name in known and each.name.endswith("_usd"):
            known[each.name] = Decimal(known[each.name])
        elif each.name in known and isinstance(known[each.name], list):
            known[each.name] = tuple(known[each.name])
    return kind(**known)


def query_of(told: Mapping[str, Any]) -> QueryAnswer:
    return value_of(QueryAnswer, {"cost_usd": told.get("actual_cost_usd"), **told})


def parallel_of(body: bytes) -> Parallel:
    told = exactly(body)
    answers = {model: query_of(each) for model, each in told["responses"].items()}
    return Parallel(answers, told["request_id"], told["elapsed_time_ms"])


def status_of(body: bytes) -> Status:
    told = json.loads(body)
    providers = told.pop("providers", {})
    return Status(told, providers)

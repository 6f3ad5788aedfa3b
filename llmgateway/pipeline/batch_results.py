"""What the results of a batch used and cost, read from the file that holds them: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from billing.pricing import PriceVersion, cost, in_force
from llmgateway.pipeline.metering import Metered
from llmgateway.pipeline.snapshot import Deployment
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import Usage

_KINDS = {
    "chat.completion": "openai.chat",
    "text_completion": "openai.completions",
    "response": "openai.responses",
    "list": "openai.embeddings",
}
"""In which dialect a result is, by the `object` that it says to be."""
_BUCKETS = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input", "output", "reasoning",
    "audio_output",
)  # fmt: skip
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Response(msgspec.Struct):
    body: dict[str, Any] | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Line).decode


class Bill(NamedTuple):
    """What the results of one batch come to."""

    metered: Metered
    deployment: Deployment | None
    """Of the model that answered; None: none of those that are configured."""
    price: PriceVersion | None


def bill_of(content: bytes, deployments: Sequence[Deployment], *, now: float) -> Bill | None:
    """None: these are no results, or none of them used anything. `deployments` are the provider's.

    A price of a model called `<model>:batch` holds for its batches; without one, the usual price.
    """
    usages: dict[str, Usage] = {}
    requests: dict[str, int] = {}
    for model, usage in _results(content):
        usages[model] = _sum(usages[model], usage) if model in usages else usage
        requests[model] = requests.get(model, 0) + 1
    if not usages:
        return None
    total, pico_usd = Usage(), 0
    deployment, price = None, None
    for model, usage in usages.items():
        deployment = _deployment(model, deployments)
        price = None if deployment is None else in_force(deployment.batch_prices or deployment.prices, now)
        total = _sum(total, usage)
        if price is not None:
            pico_usd += cost(price, usage) + price.request * (requests[model] - 1)
    raw = {"requests": sum(requests.values()), "models": requests}
    return Bill(Metered(total, "provider", raw, pico_usd, next(iter(usages))), deployment, price)


def _results(content: bytes) -> Iterator[tuple[str, Usage]]:
    for line in content.splitlines():
        try:
            result = _decode(line)
        except _UNREADABLE:
            continue  # Any file may be asked for.
        body = result.response.body if result.response is not None else None
        dialect = _KINDS.get(str(body.get("object"))) if body else None
        if body is None or dialect is None or not isinstance(body.get("usage"), dict):
            continue
        try:
            yield str(body.get("model") or ""), get_dialect(dialect).usage(body["usage"])
        except MalformedUsageError:
            yield str(body.get("model") or ""), Usage(consistent=False)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        **{bucket: getattr(one, bucket) + getattr(other, bucket) for bucket in _BUCKETS},
        consistent=one.consistent and other.consistent,
    )


def _deployment(model: str, deployments: Sequence[Deployment]) -> Deployment | None:
    """Answers name models by their date: the longest name that theirs begins with."""
    fitting = [each for each in deployments if model == each.model or model.startswith(each.model + "-")]
    return max(fitting, key=lambda each: len(each.model), default=None)

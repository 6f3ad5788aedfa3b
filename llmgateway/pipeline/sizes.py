"""Limits on the bytes of one request. Nothing is counted, so no store is asked."""

from __future__ import annotations

from llmgateway.pipeline.errors import GatewayError, RequestTooLargeError
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.rules import NOTHING_ADDED, Rules
from llmgateway.pipeline.snapshot import Deployment, Limit


def fitting(
    request: ModelRequest, rules: Rules, candidates: tuple[Deployment, ...], oversized: list[Limit]
) -> tuple[Deployment, ...]:
    """The candidates that take a request of this size. Limits in shadow mode that it exceeds go to `oversized`.

    Raises:
        RequestTooLargeError: the caller, the alias or every candidate allows fewer bytes.
    """
    size = len(request.body)
    for limit in rules.sizes:
        if not _allows(limit, size, oversized):
            raise _too_large(limit, size)
    if not rules.added and not any(deployment.limits for deployment in candidates):
        return candidates
    refused: Limit | None = None
    able = []
    for deployment in candidates:
        concerned = deployment.limits + rules.added.get(deployment.id, NOTHING_ADDED).sizes
        too_small = next((each for each in concerned if not _allows(each, size, oversized)), None)
        if too_small is None:
            able.append(deployment)
        refused = refused or too_small
    if not able and refused is not None:
        raise _too_large(refused, size)
    return tuple(able)


def _allows(limit: Limit, size: int, oversized: list[Limit]) -> bool:
    if limit.metric != "request_bytes" or size <= limit.amount:
        return True
    if limit.shadow:
        oversized.append(limit)
    return limit.shadow


def _too_large(limit: Limit, size: int) -> GatewayError:
    return RequestTooLargeError(
        f"This request has {size:,} bytes, and a limit allows {limit.name}. Send less, or ask an admin to raise the limit.",
        headers=(
            (b"x-ratelimit-scope", limit.scope.encode()),
            (b"x-ratelimit-name", limit.name.encode("ascii", "backslashreplace")),
            (b"x-should-retry", b"false"),
        ),
    )

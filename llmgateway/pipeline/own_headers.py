"""What answers say about themselves: who answered, what limits leave, how long the gateway took, what it cost."""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache

from billing.money import exact_usd
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.header_lines import HeaderLines, line
from llmgateway.pipeline.refusals import limit_lines
from llmgateway.pipeline.snapshot import Alias
from providers.adapters.types import Usage

STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
"""What every stream of events says to those on its way."""


def gateway_lines(call: Call) -> HeaderLines:
    """What every answer to an admitted request says."""
    phases, progress, deployment = call.phases, call.progress, call.progress.deployment
    provider, name = (deployment.provider, deployment.name) if deployment is not None else ("", "")
    upstream = (progress.first_chunk or call.now()) - progress.attempt_started
    cap = call.admission.output_cap
    return (
        b"%bx-gateway-attempts: %d\r\n%b"
        b"server-timing: auth;dur=%.3f, route;dur=%.3f, admit;dur=%.3f, ledger;dur=%.3f, upstream;dur=%.3f\r\n%b"
    ) % (
        origin_lines(call.stands_in_for or call.alias.name, provider, name, call.fallback)
        + retirement_lines(call.alias),
        len(progress.attempts) + call.running,
        limit_lines(call.reservation),
        phases["auth"] * 1000,
        phases["route"] * 1000,
        phases["admit"] * 1000,
        phases["ledger"] * 1000,
        upstream * 1000,
        b"" if cap is None else b"x-gateway-output-cap: %d\r\n" % cap,
    )


@lru_cache(maxsize=4096)
def origin_lines(alias: str, provider: str, deployment: str, fallback: str = "") -> HeaderLines:
    lines = line(b"x-gateway-model", alias.encode())
    if fallback:
        lines += line(b"x-gateway-fallback", fallback.encode())
    if deployment:
        lines += line(b"x-gateway-provider", provider.encode()) + line(b"x-gateway-deployment", deployment.encode())
    return lines


def retirement_lines(alias: Alias) -> HeaderLines:
    """That the model will not be answered for much longer: `sunset` is RFC 8594's."""
    return b"" if alias.retires_at is None else _sunset_lines(alias.retires_at, alias.replacement)


@lru_cache(maxsize=4096)
def _sunset_lines(retires_at: float, replacement: str) -> HeaderLines:
    lines = line(b"sunset", formatdate(retires_at, usegmt=True).encode())
    return lines + line(b"x-gateway-model-replacement", replacement.encode()) if replacement else lines


def usage_lines(call: Call) -> HeaderLines:
    """Tokens and cost; only on answers that are complete when their headers are sent."""
    waited = (call.progress.first_chunk or call.now()) - call.request.received
    return token_lines(call.outcome.usage, call.cost_pico_usd, waited)


def token_lines(usage: Usage, cost_pico_usd: int, waited_s: float) -> HeaderLines:
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    return (
        b"x-gateway-cost-usd: %b\r\nx-llm-input-tokens: %d\r\nx-llm-output-tokens: %d\r\nx-llm-total-tokens: %d\r\n"
        b"x-llm-thought-tokens: %d\r\nx-llm-cache-read-tokens: %d\r\nx-llm-cache-write-tokens: %d\r\nx-llm-ttfb-ms: %d\r\n"
    ) % (
        exact_usd(cost_pico_usd),
        input_tokens,
        output_tokens,
        input_tokens + output_tokens,
        usage.reasoning,
        usage.cache_read,
        usage.cache_write_5m + usage.cache_write_1h,
        waited_s * 1000,
    )

"""From what a provider reported, or did not, to tokens and money, and to the ledger row. Pure."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from billing.money import PICO_PER_USD
from billing.pricing import PriceVersion, cost, price_of_unit, units_cost
from llmgateway.pipeline.protocols import Record, Reservation
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, Key
from providers.adapters.dialects.base import Dialect, StreamScanner
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Operation, Units, Usage

NOTHING = Usage()


class Metered(msgspec.Struct, frozen=True):
    """What one answer used and cost."""

    usage: Usage = NOTHING
    source: str = "none"
    """`provider`, `estimated` or `none`."""
    raw: JSONObject | None = None
    cost_pico_usd: int = 0
    response_model: str = ""
    reported_pico_usd: int | None = None
    """What the provider says that it cost; None: it does not."""


def metered(
    deployment: Deployment,
    price: PriceVersion | None,
    *,
    raw: JSONObject | None,
    estimate: Usage,
    dialect: Dialect | None,
    response_model: str = "",
    asked: Units = (),
    body: bytes = b"",
) -> Metered:
    """The provider's figures where it gave any, else the estimate, priced. `dialect` is the one that `raw` came in.

    `asked` are the units that the request itself says, where it is such a request; `body` is the request's.
    """
    usage, source = estimate, "estimated"
    if raw is None and dialect is not None and dialect.operation is Operation.PASSTHROUGH:
        return NOT_METERED
    if raw is not None and dialect is not None:
        try:
            usage, source = deployment.adapter.usage(raw, dialect), "provider"
            if not dialect.tells_kinds:
                usage = dialect.by_kind(usage, raw, body, deployment.estimation.chars_per_token)
        except MalformedUsageError:
            source = "estimated"
    if asked and dialect is not None:
        if source == "estimated":
            usage, source = _estimated(usage, asked, price, dialect)
        usage = msgspec.structs.replace(usage, units=dialect.used_units(asked, usage.units))
    reported = None
    if raw is not None and deployment.adapter.reported_cost_field:
        reported = _reported(deployment, raw)
    return Metered(usage, source, raw, cost(price, usage) if price else 0, response_model, reported)


def _estimated(usage: Usage, asked: Units, price: PriceVersion | None, dialect: Dialect) -> tuple[Usage, str]:
    """Of a call whose provider did not say: what is billed by the unit has no tokens besides."""
    if price is None or not _prices_any(price, asked):
        return dialect.estimated(usage, asked), "estimated"
    return NOTHING, "counted" if dialect.counts_units else "estimated"


def _reported(deployment: Deployment, raw: JSONObject) -> int | None:
    """Pico-dollars; a sum that no ledger can hold is a provider's fault, and left out."""
    said = deployment.adapter.reported_cost_usd(raw)
    if said is None:
        return None
    pico = round(Decimal(said) * PICO_PER_USD)
    return pico if pico < 2**63 else None


NOT_METERED = Metered()


class Progress(msgspec.Struct):
    """How far an admitted request has come: what the conductor writes down as it goes, for row and log."""

    attempts: list[Record] = msgspec.field(default_factory=list)
    deployment: Deployment | None = None
    """Of the present attempt."""
    price: PriceVersion | None = None
    """In force when the present attempt was sent."""
    attempt_started: float = 0.0
    sent: float = 0.0
    """Monotonic seconds when the first upstream request went out."""
    first_chunk: float | None = None
    """Monotonic seconds when the first piece of the answer came."""
    first_token: float | None = None
    """The same for the first piece that says something: roles and comments do not count."""
    upstream_status: int = 0
    """What the present attempt's provider has answered; 0: nothing yet."""
    http_status: int = 0
    """What the client has been told; 0: nothing yet."""
    scanner: StreamScanner | None = None
    """Of the present attempt's stream, if it has begun one."""
    is_hedge: bool = False
    """The present attempt was begun because another was slow."""

    @property
    def target(self) -> Deployment:
        """Of an attempt that has begun."""
        if self.deployment is None:
            raise RuntimeError("no attempt has begun")
        return self.deployment

    def begin(self, deployment: Deployment, price: PriceVersion | None, now: float) -> None:
        """From `now` on (monotonic seconds) `deployment` is being asked."""
        self.deployment = deployment
        self.price = price
        self.attempt_started = now
        self.upstream_status = 0
        self.first_chunk = self.first_token = None
        self.scanner = None
        self.is_hedge = False
        if not self.sent:
            self.sent = now


def identity(request: ModelRequest, key: Key, alias: Alias, *, admitted_at: float) -> Record:
    """What the `open` and the `close` record of a request have in common: who asked for what, when, from where."""
    who = {
        "id": request.id,
        "started_at": request.started_at,
        "admitted_at": admitted_at,
        "key_id": key.id,
        "key_name": key.name,
        "team_id": key.team_id,
        "team_name": key.team_name,
        "end_user": request.end_user or key.user_id,
        "client_request_id": request.client_request_id,
        "client_ip": request.client_ip,
        "operation": request.dialect.operation.value,
        "path": request.path,
        "alias": alias.name,
        "stream": bool(request.head.stream),
    }
    if request.mirror_of:
        who["mirror_of"] = request.mirror_of
    if key.__class__ is ForeignKey:
        who["own_key"] = key.digest
    return who


def ledger_row(
    asked: Record,
    progress: Progress,
    outcome: Metered,
    *,
    status: str,
    error_type: str,
    held_pico_usd: int,
    over_hold: bool,
    received: float,
    now: float,
) -> Record:
    """The journal's `close` record: the columns of `UsageRecord` by name. `asked` is the request's `identity`.

    `received` and `now` are monotonic seconds.
    """
    usage, deployment = outcome.usage, progress.deployment
    first = progress.first_token or progress.first_chunk
    price = progress.price
    row = {
        **asked,
        "status": status,
        "http_status": progress.http_status,
        "error_type": error_type,
        "provider": deployment.provider if deployment else "",
        "deployment": deployment.name if deployment else "",
        "model": deployment.model if deployment else "",
        "response_model": outcome.response_model,
        "input": usage.input,
        "cache_read": usage.cache_read,
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "audio_input": usage.audio_input,
        "image_input": usage.image_input,
        "output": usage.output,
        "reasoning": usage.reasoning,
        "audio_output": usage.audio_output,
        "usage_source": outcome.source,
        "usage_raw": outcome.raw,
        "cost_pico_usd": outcome.cost_pico_usd,
        "held_pico_usd": held_pico_usd,
        "over_hold": over_hold,
        "price_id": (price.id or None) if price else None,
        "priced": deployment is None or (price is not None and not price.is_default) or "own_key" in asked,
        "duration_us": int((now - received) * 1e6),
        "ttft_us": int((first - received) * 1e6) if first else None,
        "overhead_us": int(((progress.sent or now) - received) * 1e6),
        "attempts": progress.attempts,
    }
    if price is not None and price.is_default:
        row["default_price"] = True
    if usage.units:
        row["units"] = dict(usage.units)
        row["priced"] = row["priced"] and (
            outcome.cost_pico_usd > 0 or price is None or _prices_any(price, usage.units)
        )
    if outcome.reported_pico_usd is not None:
        row["reported_cost_pico_usd"] = outcome.reported_pico_usd
    return row


def _prices_any(price: PriceVersion, units: Units) -> bool:
    """A price that says nothing of what was used is none."""
    return any(price_of_unit(price.units, name) is not None for name, _ in units)


def opening(asked: Record, held_pico_usd: int, reservation: Reservation, attempt: Record) -> Record:
    """The journal's `open` record, which holds the first attempt's."""
    windows = [[window.name, window.budget.id, window.held_pico_usd] for window in reservation.windows]
    return {**asked, "held_pico_usd": held_pico_usd, "windows": windows, **attempt}


def attempt_record(
    deployment: Deployment, price: PriceVersion | None, *, strict_pico_usd: int | None, units: Units = ()
) -> Record:
    """What the journal must know of an upstream call, should the process die during it.

    `strict_pico_usd` is what strict budgets hold meanwhile; None: there is none. What `units` cost, which the request
    itself says, is part of the price of the call.
    """
    request_price = price.request if price else None
    if units and price is not None:
        request_price = price.request + units_cost(price.units, units)
    record = {
        "provider": deployment.provider,
        "deployment": deployment.name,
        "model": deployment.model,
        "price_id": (price.id or None) if price else None,
        "input_price": price.input if price else None,
        "output_price": price.output if price else None,
        "request_price": request_price,
        "strict_pico_usd": strict_pico_usd,
    }
    if price is not None and price.is_default:
        record["default_price"] = True
    return record


def default_figures(price: PriceVersion) -> dict[str, int]:
    """A default price as an attempt keeps it: no row will tell later what it was."""
    return {"input": price.input, "output": price.output, "request": price.request}

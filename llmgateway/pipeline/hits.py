"""A kept answer on its way to another client: counted, written in the ledger, free of charge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from billing.pricing import cost, in_force
from llmgateway.pipeline.cache_keys import form_of
from llmgateway.pipeline.cached_answers import WHOLE, KeptAnswer
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.exchanges import Exchange
from llmgateway.pipeline.header_lines import HeaderLines, line
from llmgateway.pipeline.metering import Metered, Progress, identity, ledger_row
from llmgateway.pipeline.own_headers import STREAM_LINES, origin_lines, retirement_lines, token_lines
from llmgateway.pipeline.protocols import Record, Reservation, TargetTerms, Tokens
from llmgateway.pipeline.recorder import Recorder
from llmgateway.pipeline.refusals import as_error, limit_lines
from llmgateway.pipeline.replays import Replay
from llmgateway.pipeline.requests import Client, ModelRequest, Presence
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.sizes import fitting
from llmgateway.pipeline.snapshot import Deployment, Key, Limit

if TYPE_CHECKING:
    from llmgateway.pipeline.gateway import Gateway

PIECE = 64 * 1024
"""Bytes of a stream that go out at once."""
_FREE = (TargetTerms(),)


class Visit(msgspec.Struct):
    """One request, as far as kept answers concern it."""

    request: ModelRequest
    key: Key
    client: Client
    presence: Presence
    routed: Routed
    routed_at: float
    """Monotonic seconds."""
    has_begun: bool = False
    """Its client has been told something."""


class HitDesk:
    """Gives kept answers. One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def serve(self, visit: Visit, found: Replay, exchange: Exchange) -> None:
        """Raises GatewayError: a limit has no room, or the row cannot be written; the client has been told nothing."""
        gateway, request = self._gateway, visit.request
        oversized: list[Limit] = []
        rules = gateway.rules(request, visit.key, visit.routed.alias)
        fitting(request, rules, visit.routed.candidates, oversized)
        reservation = await self._counted(visit, rules)
        for limit in (*oversized, *(reservation.shadowed if reservation else ())):
            gateway.telemetry.figures.shadow_refusals[limit.scope, limit.name] += 1
        similarity = found.answer.similarity
        kind = "hit" if similarity is None else "semantic"
        self._record(visit, found.answer, kind, reservation)
        visit.has_begun = True
        lines = self._lines(visit, found.answer, kind, reservation)
        if similarity is not None:
            lines += b"x-gateway-cache-similarity: %.4f\r\n" % similarity
        await self._send(visit, found, lines, exchange)

    async def _counted(self, visit: Visit, rules: Rules) -> Reservation | None:
        """A turn of every limit of requests. None: there is no such limit. Neither tokens nor money are asked for."""
        gateway = self._gateway
        limits = tuple([limit for limit in rules.limits if limit.metric == "requests"])
        if not limits:
            return None
        decision = await gateway.store.admit(
            visit.request.id, demand=Tokens(), limits=limits, budgets=(), targets=_FREE
        )
        if not isinstance(decision, Reservation):
            raise as_error(decision, rules, Tokens(), gateway.snapshot.admission, now=gateway.clock.time())
        return decision

    def _record(self, visit: Visit, answer: KeptAnswer, kind: str, reservation: Reservation | None) -> None:
        """Open and close in one step: nothing can come between, and the ledger has it before the answer goes out."""
        gateway, request = self._gateway, visit.request
        now = gateway.clock.monotonic()
        asked = identity(request, visit.key, visit.routed.alias, admitted_at=gateway.clock.time())
        asked |= {"input_estimate": 0, "input_bytes": len(request.body)}
        saved = self._saved(visit, answer)
        row = ledger_row(
            asked,
            Progress(sent=visit.routed_at, first_chunk=now, http_status=200),
            Metered(response_model=answer.response_model),
            status="completed",
            error_type="",
            held_pico_usd=0,
            over_hold=False,
            received=request.received,
            now=now,
        )
        row |= {"model": answer.model, "cache": kind, "saved_pico_usd": saved, "counted": True}
        try:
            gateway.ledger.open({**asked, "held_pico_usd": 0, "windows": []})
        except BaseException:
            self._settle(reservation, used=None)
            raise
        try:
            gateway.ledger.close(row)
        finally:
            self._settle(reservation, used=Tokens())
        self._count(row, visit, kind, saved)

    def _settle(self, reservation: Reservation | None, *, used: Tokens | None) -> None:
        if reservation is not None:
            self._gateway.store.settle(reservation, cost_pico_usd=0, used=used, budgets=())

    def _count(self, row: Record, visit: Visit, kind: str, saved: int) -> None:
        telemetry, request = self._gateway.telemetry, visit.request
        telemetry.figures.cache_results[kind] += 1
        telemetry.figures.cache_savings_pico_usd += saved
        phases = {
            "auth": request.authenticated - request.received,
            "route": visit.routed_at - request.authenticated,
        }
        telemetry.finished(request.path, row, phases)

    def _saved(self, visit: Visit, answer: KeptAnswer) -> int:
        """What it would cost now; what it did cost, where its deployment or price is gone."""
        now = self._gateway.clock.time()
        for deployment in visit.routed.reached.deployments:
            if deployment.id == answer.deployment_id and (price := in_force(deployment.prices, now)) is not None:
                return cost(price, answer.usage)
        return answer.cost_pico_usd

    def _lines(self, visit: Visit, answer: KeptAnswer, kind: str, reservation: Reservation | None) -> HeaderLines:
        gateway, request, alias = self._gateway, visit.request, visit.routed.alias
        lines = (
            b"x-gateway-cache: %b\r\nage: %d\r\nx-gateway-attempts: 0\r\n"
            b"server-timing: auth;dur=%.3f, route;dur=%.3f\r\n"
        ) % (
            kind.encode(),
            max(0, gateway.clock.time() - answer.stored_at),
            (request.authenticated - request.received) * 1000,
            (visit.routed_at - request.authenticated) * 1000,
        )
        lines += origin_lines(alias.name, answer.provider, answer.deployment) + retirement_lines(alias)
        if answer.dropped:
            lines += line(b"x-gateway-dropped-params", answer.dropped)
        if reservation is not None:
            lines += limit_lines(reservation)
        if form_of(request) == WHOLE:
            lines += token_lines(answer.usage, 0, gateway.clock.monotonic() - request.received)
        return lines

    async def _send(self, visit: Visit, found: Replay, lines: HeaderLines, exchange: Exchange) -> None:
        client, body = visit.client, found.body
        headers = [(b"content-type", found.media_type)]
        if form_of(visit.request) == WHOLE:
            await client.whole(200, body, headers, lines)
            return
        await client.start(200, headers, STREAM_LINES + lines)
        idle_s = min([each.timeouts.idle_s for each in visit.routed.candidates])
        for start in range(0, len(body), PIECE):
            exchange.wait(self._gateway.clock.monotonic(), idle_s)
            await client.send(body[start : start + PIECE], more=True)
        await client.send(b"", more=False)

    def answer_of(
        self, visit: Visit, call: Call, deployment: Deployment, body: bytes, recorder: Recorder
    ) -> KeptAnswer:
        """What is to be known of an answer that has gone out, to give it again."""
        outcome = call.outcome
        return KeptAnswer(
            body=body,
            form=form_of(visit.request),
            media_type=recorder.header(b"content-type") or visit.request.dialect.media_type,
            stored_at=self._gateway.clock.time(),
            alias=visit.routed.alias.name,
            deployment_id=deployment.id,
            deployment=deployment.name,
            provider=deployment.provider,
            model=deployment.model,
            response_model=outcome.response_model,
            usage=outcome.usage,
            usage_source=outcome.source,
            cost_pico_usd=outcome.cost_pico_usd,
            dropped=recorder.header(b"x-gateway-dropped-params"),
        )

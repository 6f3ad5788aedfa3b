"""What a realtime session uses: each response and each transcription is admitted, metered and settled as a request.

What the caller asks for is admitted before the provider hears of it. What the provider begins of its own accord, when
the caller falls silent, is admitted when it says so; if it may not run, it is booked all the same, and the session ends.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from msgspec import structs

from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import GatewayError, NotFoundError, PermissionDeniedError, RateLimitError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest, Presence
from llmgateway.pipeline.rules import NO_VIA, Rules
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Key, Limit
from llmgateway.pipeline.terms import LARGEST_HOLD
from providers.adapters.body import RequestHead
from providers.adapters.dialects.openai_realtime import (
    RealtimeEvent,
    detects_turns,
    failure,
    output_cap,
    transcription_model,
)

logger = logging.getLogger(__name__)

MOST_TURNS = 0xFFF
"""Responses and transcriptions of one session; their number is the end of their ids."""
SOUND_IN_PER_TOKEN, SOUND_OUT_PER_TOKEN = 6400, 3200
"""Characters of base64 that make a token of sound: 100 ms of what is heard, 50 ms of what is said, as PCM at 24 kHz."""
HEARD = "input_audio_buffer.append"


class Turn:
    """One response or transcription from its admission on."""

    __slots__ = ("call", "event_id", "refusal", "said")

    def __init__(self, call: Call, event_id: str | None = None, refusal: GatewayError | None = None) -> None:
        self.call = call
        self.event_id = event_id
        """Of the caller's event that asked for it."""
        self.refusal = refusal
        """Why it should not have run."""
        self.said = 0.0
        """Tokens so far, by the size of what came."""
        call.exchange.output_tokens = self.output_tokens

    def output_tokens(self) -> int:
        return int(self.said)


class SessionMeter:
    """Belongs to one session's task group: events of both sides are told to it before they are passed on."""

    def __init__(
        self,
        gateway: Gateway,
        asked: ModelRequest,
        key: Key,
        alias: Alias,
        deployment: Deployment,
        *,
        secret: bytes | None,
        presence: Presence,
        via: tuple[Alias, ...] = (),
    ) -> None:
        self._gateway = gateway
        self._asked = asked
        self._secret = secret
        self._presence = presence
        self.key = key
        self.alias = alias
        self.deployment = deployment
        self._via = via
        """The aliases between the one asked for and the deployment."""
        self._turns = 0
        self._waiting: list[Turn] = []
        """Admitted, not begun by the provider yet."""
        self._running: dict[str, Turn] = {}
        """By the provider's id of the response."""
        self._writing: dict[str, Turn] = {}
        """Transcriptions, by the item that is written down."""
        self._context = 0.0
        """Tokens of the conversation so far, which every response is asked with again."""
        self._model = ""
        self._transcription_model = ""
        self._detects_turns = True
        self._cap: int | None = None

    # ── what may go on ──

    async def check_access(self) -> None:
        """Raises GatewayError: the key, or the way to the model, is no more."""
        gateway = self._gateway
        self.key = await gateway.authenticate(self._secret, client_ip=self._asked.client_ip)
        snapshot, name = gateway.snapshot, self.alias.name
        self._via = tuple([snapshot.aliases.get(each.name, each) for each in self._via])
        if self.key.models is not None and not self.key.models.issuperset({name, *[each.name for each in self._via]}):
            raise PermissionDeniedError(
                f"API key '{self.key.name}' may not use the model '{name}' any more. Ask an admin to allow it.",
                code="model_not_allowed",
                param="model",
            )
        if self.alias.id:
            found = snapshot.aliases.get(name)
            if found is None:
                raise NotFoundError(
                    f"The model '{name}' does not exist any more. GET /v1/models lists those that do.",
                    code="model_not_found",
                    param="model",
                )
            self.alias = found
        self.deployment = next(
            (each for each in snapshot.deployments if each.id == self.deployment.id), self.deployment
        )

    async def check_room(self) -> None:
        """Raises GatewayError: not one response would be admitted now."""
        gateway, request = self._gateway, self._request()
        rules, candidates = self._rules(request, self.deployment), (_turns_only(self.deployment),)
        admission = await gateway.desk.admit(request, rules, candidates, gateway.snapshot.admission)
        gateway.store.settle(admission.reservation, cost_pico_usd=0, used=None, budgets=())

    # ── what the caller says ──

    async def asked_for(self, event: RealtimeEvent) -> None:
        """A response is about to be asked for. Raises GatewayError: it must not be."""
        await self.check_access()
        cap = output_cap(event.response)
        turn = Turn(await self._admit(self._request(cap=cap), self.deployment), event.event_id)
        turn.call.progress.upstream_status = 101
        self._waiting.append(turn)

    async def heard(self, event: RealtimeEvent, size: int) -> None:
        """Anything else. Raises GatewayError: it could begin a response for which a strict budget has no room."""
        if event.type != HEARD:
            self._context += size / self.deployment.estimation.chars_per_token
            return
        self._context += size / SOUND_IN_PER_TOKEN
        if self._detects_turns and not self._waiting and self._is_strict():
            await self.check_access()
            turn = Turn(await self._admit(self._request(), self.deployment))
            # It waits for the caller to fall silent, not for the provider.
            turn.call.exchange.wait(turn.call.now(), self.deployment.timeouts.total_s)
            self._waiting.append(turn)

    # ── what the provider says ──

    async def told(self, event: RealtimeEvent) -> None:
        """Raises GatewayError: what has begun may not run; it is booked all the same."""
        match event.type:
            case "response.created":
                await self._begin(_id(event.response))
            case "response.done":
                await self._end(event.response)
            case "session.created" | "session.updated" | "transcription_session.updated":
                self._learn(event.session)
            case "input_audio_buffer.committed" if self._transcription_model and event.item_id:
                await self._begin_writing(event.item_id)
            case "conversation.item.input_audio_transcription.completed" if event.item_id:
                await self._end_writing(event, event.item_id, failed=False)
            case "conversation.item.input_audio_transcription.failed" if event.item_id:
                await self._end_writing(event, event.item_id, failed=True)
            case "error":
                self._give_back(event.error)
            case _ if event.response_id in self._running and isinstance(event.delta, str):
                self._count(self._running[event.response_id], event.type, event.delta)

    @property
    def running(self) -> list[str]:
        """Responses that have begun and not ended."""
        return list(self._running)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._writing)

    def settle_all(self, error_type: str, *, failed: bool = False) -> None:
        """The session is over: what runs is settled by what is known of it. Never waits."""
        for turn in (*self._waiting, *self._running.values(), *self._writing.values()):
            call = turn.call
            error = turn.refusal.code if turn.refusal is not None else error_type
            call.exchange.output_tokens = turn.output_tokens  # Forgotten when the clocks were stopped.
            if failed and call.progress.upstream_status and not call.settled:
                call.meter(None, output_estimate=int(turn.said), response_model=self._model)
                call.settle("failed", error_type=error)
            call.settle_cancelled(error)
            self._gateway.exchanges.end(call.exchange)
        for turns in (self._waiting, self._running, self._writing):
            turns.clear()

    def take_timeout(self) -> bool:
        """Whether a deadline of one of them has passed."""
        turns = (*self._waiting, *self._running.values(), *self._writing.values())
        # Each of them must be asked: every deadline has cancelled the task once more.
        return sum(turn.call.take_timeout() for turn in turns) > 0

    def stop_clocks(self) -> None:
        """From now on no deadline of them counts."""
        for turn in (*self._waiting, *self._running.values(), *self._writing.values()):
            self._gateway.exchanges.end(turn.call.exchange)

    # ── responses ──

    async def _begin(self, response_id: str) -> None:
        if response_id in self._running:
            return
        turn = self._waiting.pop(0) if self._waiting else await self._admit_begun(self._request(), self.deployment)
        self._running[response_id] = turn
        call = turn.call
        call.progress.upstream_status = 101
        call.progress.http_status = 200
        call.progress.first_chunk = call.now()
        call.exchange.wait(call.now(), self.deployment.timeouts.idle_s)
        if turn.refusal is not None:
            raise turn.refusal

    async def _end(self, response: Any) -> None:
        response_id = _id(response)
        if response_id not in self._running:
            await self._begin(response_id)
        turn = self._running.pop(response_id)
        call, said = turn.call, response if isinstance(response, dict) else {}
        usage = said.get("usage")
        usage = usage if isinstance(usage, dict) and usage else None
        failed = said.get("status") == "failed"
        if usage is not None or not failed:
            call.meter(usage, output_estimate=int(turn.said), response_model=self._model)
            self._context = call.outcome.usage.total_tokens
        self._settle(turn, failure(said) if failed else "", nothing=usage is None and failed)

    def _settle(self, turn: Turn, error_type: str, *, nothing: bool = False) -> None:
        """`nothing`: the provider has done no work for it."""
        call = turn.call
        if turn.refusal is not None:
            call.settle("cancelled", error_type=turn.refusal.code, refund_limits=True)
        else:
            call.settle("failed" if error_type else "completed", error_type=error_type, refund_limits=nothing)
        self._gateway.exchanges.end(call.exchange)

    def _count(self, turn: Turn, kind: str, delta: str) -> None:
        call = turn.call
        per_token = SOUND_OUT_PER_TOKEN if kind.endswith("audio.delta") else self.deployment.estimation.chars_per_token
        turn.said += len(delta) / per_token
        call.progress.first_token = call.progress.first_token or call.now()
        call.exchange.wait(call.now(), self.deployment.timeouts.idle_s)

    def _give_back(self, error: Any) -> None:
        """The provider would not do something: if that was a response, it never begins."""
        event_id = error.get("event_id") if isinstance(error, dict) else None
        # Without an id it may be about another event; then the response begins and is admitted anew.
        asked = [turn for turn in self._waiting if turn.call.progress.upstream_status]
        turn = next((turn for turn in asked if event_id is None or turn.event_id == event_id), None)
        if turn is None:
            return
        self._waiting.remove(turn)
        turn.call.progress.http_status = 400
        self._settle(turn, "invalid_request", nothing=True)

    # ── transcriptions ──

    async def _begin_writing(self, item_id: str) -> None:
        if item_id in self._writing:
            return
        turn = await self._admit_begun(self._request(estimate=0), self._writer())
        self._writing[item_id] = turn
        turn.call.progress.upstream_status = 101
        turn.call.progress.http_status = 200
        if turn.refusal is not None:
            raise turn.refusal

    async def _end_writing(self, event: RealtimeEvent, item_id: str, *, failed: bool) -> None:
        usage = event.usage if isinstance(event.usage, dict) else None
        if item_id not in self._writing:
            if usage is None:
                return
            await self._begin_writing(item_id)
        turn = self._writing.pop(item_id)
        if usage is not None or not failed:
            turn.call.meter(usage, output_estimate=0, response_model=self._transcription_model)
        self._settle(turn, "upstream_error" if failed else "", nothing=failed and usage is None)

    def _writer(self) -> Deployment:
        """What a transcription is priced as: the same provider's deployment of its model, where there is one."""
        for each in self._gateway.snapshot.deployments:
            if each.provider == self.deployment.provider and each.model == self._transcription_model:
                return each
        return self.deployment

    # ── admission ──

    def _request(self, *, cap: int | None = None, estimate: int | None = None) -> ModelRequest:
        gateway, asked = self._gateway, self._asked
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise RateLimitError(
                f"A session has at most {MOST_TURNS} responses and transcriptions. Open another one.",
                code="session_expired",
            )
        now = gateway.clock.monotonic()
        return structs.replace(
            asked,
            id=f"{asked.id}.{self._turns:x}",
            head=RequestHead(model=asked.head.model, stream=True, max_output_tokens=cap or self._cap),
            input_estimate=int(self._context) if estimate is None else estimate,
            started_at=gateway.clock.time(),
            received=now,
            authenticated=now,
        )

    async def _admit(self, request: ModelRequest, deployment: Deployment) -> Call:
        return await self._gateway.admit(
            request,
            self._rules(request, deployment),
            (_turns_only(deployment),),
            self._presence,
            routed=self._gateway.clock.monotonic(),
        )

    async def _admit_begun(self, request: ModelRequest, deployment: Deployment) -> Turn:
        """The provider works already, so it is booked whether or not there is room; the turn says if there was none."""
        try:
            await self.check_access()
            return Turn(await self._admit(request, deployment))
        except GatewayError as error:
            return Turn(await self._admit_regardless(request, deployment), refusal=error)

    async def _admit_regardless(self, request: ModelRequest, deployment: Deployment) -> Call:
        rules, candidate = _unrefusable(self._rules(request, deployment), deployment)
        routed = self._gateway.clock.monotonic()
        try:
            return await self._gateway.admit(request, rules, (candidate,), self._presence, routed=routed)
        except GatewayError as error:
            # Neither counters nor journal can take it: an operator must know what the provider may bill.
            logger.critical("what '%s' began in session %s is not booked: %s", deployment.provider, request.id, error)
            raise

    def _rules(self, request: ModelRequest, deployment: Deployment) -> Rules:
        """Without slots: the session itself holds one."""
        via = {deployment.id: self._via} if self._via else NO_VIA
        return self._gateway.rules(request, self.key, self.alias, via).keeping(lambda limit: not is_slot(limit))

    def _is_strict(self) -> bool:
        rules = self._rules(self._asked, self.deployment)
        added = [budget for each in rules.added.values() for budget in each.budgets]
        return rules.strict or any(budget.strict for budget in (*self.deployment.budgets, *added))

    def _learn(self, session: Any) -> None:
        """Raises PermissionDeniedError: another model answers from now on."""
        if not isinstance(session, dict):
            return
        detects, model = detects_turns(session), session.get("model")
        self._detects_turns = self._detects_turns if detects is None else detects
        self._transcription_model = transcription_model(session)
        self._cap = output_cap(session)
        if isinstance(model, str) and model:
            if self._model and model != self._model:
                raise PermissionDeniedError(
                    f"The session's model has become '{model}', which was not asked for. Open a session for it.",
                    code="model_not_allowed",
                    param="session.model",
                )
            self._model = model


def is_slot(limit: Limit) -> bool:
    """Whether it is about what runs at the same time, which is the session itself and not what is said in it."""
    return limit.metric == "concurrency"


def slots_only(deployment: Deployment) -> Deployment:
    """As what a session itself counts for: how many run at a time."""
    return replace(deployment, limits=tuple(filter(is_slot, deployment.limits)), budgets=())


def _turns_only(deployment: Deployment) -> Deployment:
    """As what a response counts for."""
    return replace(deployment, limits=tuple([each for each in deployment.limits if not is_slot(each)]))


def _unrefusable(rules: Rules, deployment: Deployment) -> tuple[Rules, Deployment]:
    """The same budgets, so that the cost is booked on each of them, without a limit."""
    if not deployment.prices:
        return rules.keeping(_none, lambda _: None), replace(deployment, limits=(), budgets=())
    return (
        rules.keeping(_none, _endless),
        replace(deployment, limits=(), budgets=tuple(map(_endless, deployment.budgets))),
    )


def _none(_: Limit) -> bool:
    return False


def _endless(budget: BudgetRule) -> BudgetRule:
    return structs.replace(budget, limit_pico_usd=LARGEST_HOLD, strict=False)


def _id(response: Any) -> str:
    return str(response.get("id")) if isinstance(response, dict) else ""

"""Each response of a session is a request of its own: admitted, journalled, settled at the provider's count."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from billing.pricing import UnitPrice
from llmgateway.pipeline.errors import BudgetExceededError, GatewayError, PermissionDeniedError, RateLimitError
from llmgateway.pipeline.protocols import BudgetState
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.session_meter import MOST_TURNS, SOUND_OUT_PER_TOKEN, SessionMeter
from llmgateway.pipeline.snapshot import BudgetRule, Deployment, Key, Limit
from providers.adapters.body import RequestHead
from providers.adapters.dialects.openai_realtime import RealtimeEvent
from providers.adapters.dialects.registry import get_dialect
from tests.fakes import ScriptedUpstream
from tests.gateways import PRICE, SECRET, House, alias, deployment, key, snapshot

VOICE = deployment(model="gpt-realtime")
USAGE = {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
COST = 30 * 2 + 4 * 10
DAY = BudgetRule(1, "day", "key", "1", "day", 1500 * 10, "UTC")
"""Room for one response whose length nobody knows, and not for two."""
STRICT = BudgetRule(1, "day", "key", "1", "day", 1000, "UTC", strict=True)


class Here:
    """A caller who stays."""

    client_left = False

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[object] = task

    def watch(self) -> None:
        raise AssertionError("sessions watch by themselves")


class Table:
    """A meter over a gateway of fakes."""

    def __init__(
        self, *, who: Key | None = None, voice: Deployment = VOICE, others: tuple[Deployment, ...] = ()
    ) -> None:
        known = who or key()
        named = alias("voice", voice)
        self.house = House(ScriptedUpstream(), snapshot(named, who=known, deployments=(voice, *others)))
        asked = ModelRequest(
            id="req_1", path="/v1/realtime", dialect=get_dialect("openai.realtime"), body=b"",
            head=RequestHead(model="voice", stream=True), headers=[], client_ip="127.0.0.1", client_request_id="",
            end_user="", started_at=self.house.clock.time(), received=0.0, authenticated=0.0, input_estimate=0,
        )  # fmt: skip
        self.meter = SessionMeter(
            self.house.gateway, asked, known, named, voice, secret=SECRET.encode(), presence=Here()
        )

    @property
    def rows(self) -> list[Any]:
        return self.house.ledger.closed

    async def ask(self, event_id: str | None = None, **response: Any) -> None:
        await self.meter.asked_for(RealtimeEvent("response.create", event_id, response=response))

    async def begin(self, response_id: str = "r1") -> None:
        await self.meter.told(RealtimeEvent("response.created", response={"id": response_id}))

    async def end(self, response_id: str = "r1", *, usage: Any = USAGE, **more: Any) -> None:
        told = {"id": response_id, "status": "completed", "usage": usage, **more}
        await self.meter.told(RealtimeEvent("response.done", response=told))

    async def session(self, **session: Any) -> None:
        await self.meter.told(RealtimeEvent("session.updated", session=session))

    async def state(self) -> BudgetState:
        return await self.house.store.state(DAY)


async def test_a_response_is_a_row_at_the_provider_s_count() -> None:
    table = Table()

    await table.ask()
    opened = table.house.ledger.running
    await table.begin()
    await table.end()

    [row] = table.rows
    assert opened == {"req_1.1"}
    assert (row["id"], row["operation"], row["status"], row["usage_source"]) == (
        "req_1.1", "realtime", "completed", "provider",
    )  # fmt: skip
    assert (row["input"], row["output"], row["cost_pico_usd"]) == (30, 4, COST)
    assert len(table.house.gateway.exchanges) == 0


async def test_the_next_response_is_estimated_by_the_conversation_so_far() -> None:
    table = Table()
    await table.ask()
    await table.begin()
    await table.end()

    await table.meter.heard(RealtimeEvent("conversation.item.create"), 40)
    await table.ask(max_output_tokens=5)
    await table.begin("r2")
    await table.end("r2")

    assert [row["input_estimate"] for row in table.rows] == [0, 34 + 10]
    assert table.rows[1]["held_pico_usd"] == 44 * 2 + 5 * 10


async def test_responses_run_side_by_side() -> None:
    table = Table()
    for response_id in ("r1", "r2"):
        await table.ask()
        await table.begin(response_id)

    await table.end("r2", usage={"input_tokens": 1, "output_tokens": 0})
    await table.end("r1")

    assert [(row["id"], row["input"]) for row in table.rows] == [("req_1.2", 1), ("req_1.1", 30)]


async def test_a_budget_is_asked_before_the_response() -> None:
    table = Table(who=key(budgets=(DAY,)))
    await table.ask()

    with pytest.raises(BudgetExceededError):
        await table.ask()

    await table.begin()
    await table.end()
    assert await table.state() == BudgetState(COST, 0)


async def test_what_the_provider_begins_by_itself_is_admitted() -> None:
    table = Table(who=key(budgets=(DAY,)))

    await table.begin()
    held = await table.state()
    await table.end()

    assert held.held_pico_usd > 0
    assert await table.state() == BudgetState(COST, 0)


async def test_what_has_begun_without_room_is_booked_all_the_same() -> None:
    table = Table(who=key(budgets=(DAY,)))
    await table.ask()

    await table.begin("r1")
    with pytest.raises(BudgetExceededError):
        await table.begin("r2")
    await table.end("r2")

    [row] = table.rows
    assert (row["status"], row["error_type"], row["cost_pico_usd"]) == ("cancelled", "insufficient_quota", COST)
    assert (await table.state()).settled_pico_usd == COST


async def test_a_response_that_was_never_announced_is_booked() -> None:
    table = Table()

    await table.end()

    assert table.rows[0]["cost_pico_usd"] == COST


async def test_what_the_provider_refuses_is_given_back() -> None:
    requests = Limit("limit:1", "2 requests per hour", "key", 2, 2, "requests", "hour")
    table = Table(who=key(limits=(requests,), budgets=(DAY,)))

    for _ in range(3):
        await table.ask("mine")
        await table.meter.told(RealtimeEvent("error", error={"event_id": "mine"}))

    assert {(row["status"], row["cost_pico_usd"], row["counted"]) for row in table.rows} == {("failed", 0, False)}
    assert await table.state() == BudgetState(0, 0)


async def test_an_error_about_something_else_gives_nothing_back() -> None:
    table = Table()
    await table.ask("mine")

    await table.meter.told(RealtimeEvent("error", error={"event_id": "another"}))

    assert table.rows == []


async def test_a_response_without_usage_is_estimated_by_what_came() -> None:
    table = Table()
    await table.ask()
    await table.begin()
    for kind, delta in (
        ("response.output_audio.delta", "A" * SOUND_OUT_PER_TOKEN * 3),
        ("response.text.delta", "four" * 2),
    ):
        await table.meter.told(RealtimeEvent(kind, response_id="r1", delta=delta))

    await table.end(usage=None)

    [row] = table.rows
    assert (row["usage_source"], row["output"]) == ("estimated", 5)


async def test_a_response_that_failed_without_usage_costs_nothing() -> None:
    table = Table()
    await table.ask()
    await table.begin()

    await table.end(usage=None, status="failed", status_details={"error": {"code": "server_error"}})

    [row] = table.rows
    assert (row["status"], row["error_type"], row["cost_pico_usd"], row["counted"]) == (
        "failed",
        "server_error",
        0,
        False,
    )


async def test_what_runs_when_the_caller_leaves_is_estimated_and_what_waits_for_nobody_is_free() -> None:
    table = Table(who=key(budgets=(STRICT,)), voice=replace(VOICE, max_request_pico_usd=500))
    await table.ask()
    await table.begin()
    await table.meter.told(RealtimeEvent("response.text.delta", response_id="r1", delta="four"))
    await table.meter.heard(RealtimeEvent("input_audio_buffer.append"), 6400)

    table.meter.stop_clocks()  # As a session does before it says goodbye.
    table.meter.settle_all("client_left")

    costs = {row["id"]: (row["status"], row["cost_pico_usd"]) for row in table.rows}
    assert costs == {"req_1.1": ("cancelled", 10), "req_1.2": ("cancelled", 0)}
    assert len(table.house.gateway.exchanges) == 0


async def test_a_strict_budget_pays_for_a_response_before_the_provider_hears_the_sound() -> None:
    table = Table(who=key(budgets=(STRICT,)), voice=replace(VOICE, max_request_pico_usd=600))
    sound = RealtimeEvent("input_audio_buffer.append")

    await table.meter.heard(sound, 100)
    held = (await table.state()).held_pico_usd
    await table.meter.heard(sound, 100)
    await table.begin()
    with pytest.raises(BudgetExceededError):
        await table.meter.heard(sound, 100)
    await table.end()
    await table.meter.heard(sound, 100)

    assert held == 600
    assert [row["id"] for row in table.rows] == ["req_1.1"]


async def test_without_turn_detection_sound_begins_nothing() -> None:
    table = Table(who=key(budgets=(STRICT,)), voice=replace(VOICE, max_request_pico_usd=600))
    await table.session(audio={"input": {"turn_detection": None}})

    await table.meter.heard(RealtimeEvent("input_audio_buffer.append"), 100)

    assert await table.state() == BudgetState(0, 0)


async def test_a_strict_budget_needs_a_bound() -> None:
    with pytest.raises(BudgetExceededError) as refused:
        await Table(who=key(budgets=(STRICT,))).meter.check_room()

    assert refused.value.code == "cost_not_boundable"


async def test_looking_for_room_takes_none() -> None:
    table = Table(who=key(budgets=(DAY,)))

    await table.meter.check_room()

    assert await table.state() == BudgetState(0, 0)
    assert table.rows == []


async def test_responses_take_no_slots_for_the_session_holds_one() -> None:
    slot = Limit("limit:1", "1 at a time", "key", 1, 1, "concurrency", "")
    table = Table(
        who=key(limits=(slot,)),
        voice=replace(VOICE, limits=(Limit("limit:2", "none", "deployment", 0, 0, "concurrency", ""),)),
    )

    await table.ask()
    await table.ask()

    assert await table.house.store.limit_used(slot) == 0


async def test_a_transcription_is_priced_as_its_own_model() -> None:
    scribe = deployment(
        "scribe", 2, provider=VOICE.provider, model="scribe", prices=(replace(PRICE, id=8, input=3, output=5),)
    )
    table = Table(others=(scribe,))
    await table.session(audio={"input": {"transcription": {"model": "scribe"}}})

    await table.meter.told(RealtimeEvent("input_audio_buffer.committed", item_id="i1"))
    begun = table.house.ledger.running
    usage = {"type": "tokens", "input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    await table.meter.told(
        RealtimeEvent("conversation.item.input_audio_transcription.completed", item_id="i1", usage=usage)
    )

    [row] = table.rows
    assert begun == {"req_1.1"}
    assert (row["deployment"], row["response_model"], row["price_id"]) == ("scribe", "scribe", 8)
    assert row["cost_pico_usd"] == 10 * 3 + 2 * 5


async def test_a_transcription_may_be_priced_by_the_second() -> None:
    price = replace(PRICE, units=(UnitPrice("millisecond", 7),))
    table = Table(voice=replace(VOICE, prices=(price,)))

    await table.meter.told(
        RealtimeEvent(
            "conversation.item.input_audio_transcription.completed",
            item_id="i1",
            usage={"type": "duration", "seconds": 2},
        )
    )

    [row] = table.rows
    assert (row["units"], row["cost_pico_usd"]) == ({"millisecond": 2000}, 14_000)


async def test_a_transcription_that_failed_costs_nothing() -> None:
    table = Table()
    await table.session(input_audio_transcription={"model": "scribe"})
    await table.meter.told(RealtimeEvent("input_audio_buffer.committed", item_id="i1"))

    await table.meter.told(RealtimeEvent("conversation.item.input_audio_transcription.failed", item_id="i1"))

    [row] = table.rows
    assert (row["status"], row["cost_pico_usd"]) == ("failed", 0)


async def test_a_session_whose_model_changes_is_over() -> None:
    table = Table()
    await table.session(model="gpt-realtime-2026")
    await table.session(model="gpt-realtime-2026")

    with pytest.raises(PermissionDeniedError):
        await table.session(model="gpt-realtime-dear")


async def test_a_key_may_lose_its_model() -> None:
    table = Table()
    await table.meter.check_access()

    table.house.gateway.use(
        snapshot(alias("voice", VOICE), who=key(models=frozenset({"other"}))), table.house.gateway.budget_index
    )

    with pytest.raises(PermissionDeniedError):
        await table.ask()
    with pytest.raises(GatewayError):
        await table.meter.check_access()


@pytest.mark.parametrize("begun", [MOST_TURNS - 16, pytest.param(0, marks=pytest.mark.slow)])
async def test_a_session_has_so_many_turns_and_no_more(begun: int) -> None:
    table = Table()
    table.meter._turns = begun
    for _ in range(MOST_TURNS - begun):
        await table.ask()
        await table.meter.told(RealtimeEvent("error", error={}))

    with pytest.raises(RateLimitError) as refused:
        await table.ask()

    assert refused.value.code == "session_expired"
    assert max(len(str(row["id"])) for row in table.rows) == len("req_1") + 4


class TestAliasesOnTheWay:
    """The session's deployment was reached through another alias."""

    POOL_DAY = BudgetRule(2, "pool a day", "model", "pool", "day", 1500 * 10, "UTC", owner="alias:77")
    SLOT = Limit("limit:1", "1 at a time", "model", 1, 1, metric="concurrency", per="", owner="alias:77")

    def table(self, who: Key | None = None, **changes: Any) -> Table:
        pool = replace(alias("pool", VOICE), id=77, **changes)
        table = Table(who=who)
        snapshot_ = table.house.gateway.snapshot
        table.house.gateway.snapshot = replace(snapshot_, aliases={**snapshot_.aliases, "pool": pool})
        table.meter._via = (pool,)
        return table

    async def test_each_response_counts_for_it(self) -> None:
        table = self.table(budgets=(self.POOL_DAY,))
        await table.ask()
        with pytest.raises(BudgetExceededError):
            await table.ask()
        await table.begin()
        await table.end()

        assert await table.house.store.state(self.POOL_DAY) == BudgetState(COST, 0)
        assert [row["via"] for row in table.rows] == ["pool"]

    async def test_its_slots_are_the_session_s(self) -> None:
        table = self.table(limits=(self.SLOT,))

        await table.ask()
        await table.ask()

        assert await table.house.store.limit_used(self.SLOT) == 0

    async def test_a_key_that_may_not_call_it_any_more_is_refused(self) -> None:
        table = self.table(who=key(models=frozenset({"voice"})))

        with pytest.raises(PermissionDeniedError):
            await table.ask()

    async def test_what_the_provider_begins_is_booked_beyond_its_budget(self) -> None:
        poor = BudgetRule(2, "pool a day", "model", "pool", "day", 1, "UTC", owner="alias:77")
        table = self.table(budgets=(poor,))

        with pytest.raises(BudgetExceededError):
            await table.begin()
        await table.end()

        assert (await table.house.store.state(poor)).settled_pico_usd == COST

"""A worker takes on only so much: who waits, in which order, who is refused, and that every turn returns once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llmgateway.http import httpx
from llmgateway.key_secrets import digest
from llmgateway.pipeline.errors import GatewayError, OverloadedError
from llmgateway.pipeline.queues import HEAD_START_S
from llmgateway.pipeline.route_rules import LoadRules
from llmgateway.pipeline.rules import BudgetIndex
from llmgateway.pipeline.snapshot import ForeignKey, Key, KeyDigest
from llmgateway.pipeline.sockets import RefusedHandshakeError, SocketClosedError
from llmgateway.pipeline.turns import QueueLeftError, Turns
from tests.fakes import FakeClock
from tests.gateways import CHAT, PEPPER, Caller, House, key, snapshot
from tests.pipeline.test_sessions import Room, Side

URGENT = "sk-gw-urgenturge-0123456789abcdef"


class Somebody:
    """A client who may leave while it waits."""

    def __init__(self) -> None:
        self.client_left = False
        self.watched = 0

    @property
    def task(self) -> asyncio.Task[object]:
        task = asyncio.current_task()
        assert task is not None
        return task

    def watch(self) -> None:
        self.watched += 1


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def turns(clock: FakeClock) -> Turns:
    """One turn, which is taken, and three places."""
    turns = Turns(clock, LoadRules(max_in_flight=1, max_queued=3, queue_wait_s=30))
    assert turns.take()
    return turns


class Waiting:
    """Requests that wait, and the order in which their turns come."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.refused: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.clients: dict[str, Somebody] = {}

    async def add(self, name: str, priority: int = 0, whose: str = "1") -> None:
        self.clients[name] = Somebody()
        self.tasks[name] = asyncio.create_task(self._wait(name, key(id=whose, priority=priority)))
        await settled()

    async def _wait(self, name: str, whose: Key) -> None:
        try:
            await self.turns.wait(whose, self.clients[name])
        except OverloadedError:
            self.refused.append(name)
        else:
            self.served.append(name)

    async def serve(self, times: int) -> None:
        for _ in range(times):
            self.turns.give_back()
            await settled()


async def settled() -> None:
    """Until everybody who can go on has."""
    for _ in range(50):
        await asyncio.sleep(0)


class TestOrder:
    async def test_who_came_first_goes_first(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "abc":
            await waiting.add(name)

        await waiting.serve(3)

        assert waiting.served == ["a", "b", "c"]
        assert (turns.taken, turns.queued) == (1, 0)

    async def test_the_higher_priority_goes_first(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name, priority in (("low", -1), ("usual", 0), ("high", 7)):
            await waiting.add(name, priority)

        await waiting.serve(3)

        assert waiting.served == ["high", "usual", "low"]

    async def test_long_waiting_outweighs_priority(self, turns: Turns, clock: FakeClock) -> None:
        waiting = Waiting(turns)
        await waiting.add("patient", 0)
        clock.advance(2 * HEAD_START_S + 1)
        await waiting.add("two higher", 2)
        await waiting.add("three higher", 3)

        await waiting.serve(3)

        assert waiting.served == ["three higher", "patient", "two higher"]

    async def test_how_long_they_waited_is_counted(self, turns: Turns, clock: FakeClock) -> None:
        waiting = Waiting(turns)
        await waiting.add("a")
        clock.advance(3)
        await waiting.serve(1)

        assert (sum(turns.waits_s.counts), turns.waits_s.total) == (1, 3.0)


class TestShares:
    async def test_keys_of_one_priority_take_turns(self, clock: FakeClock) -> None:
        turns = Turns(clock, LoadRules(max_in_flight=1, max_queued=100, queue_wait_s=30))
        turns.take()
        waiting = Waiting(turns)
        for name in ("a1", "a2", "a3", "a4"):
            await waiting.add(name, whose="a")
        for name in ("b1", "b2", "c1"):
            await waiting.add(name, whose=name[0])

        await waiting.serve(7)

        assert waiting.served == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
        assert (turns.taken, turns.queued) == (1, 0)

    async def test_who_floods_the_queue_loses_its_own_places(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in ("a1", "a2", "a3"):
            await waiting.add(name, whose="a")

        for name in ("b1", "b2", "a4", "c1"):
            await waiting.add(name, whose=name[0])
        await waiting.serve(3)

        assert waiting.refused == ["a3", "b2", "a4", "a2"]
        assert waiting.served == ["a1", "b1", "c1"]
        assert turns.refused == {"full": 2, "displaced": 2, "waited": 0}

    async def test_between_priorities_it_is_as_if_there_were_one_key(self, clock: FakeClock) -> None:
        turns = Turns(clock, LoadRules(max_in_flight=1, max_queued=100, queue_wait_s=30))
        turns.take()
        waiting = Waiting(turns)
        await waiting.add("old", 0, whose="a")
        clock.advance(HEAD_START_S + 1)
        await waiting.add("new", 0, whose="a")
        await waiting.add("other", 0, whose="b")
        await waiting.add("higher", 1, whose="c")

        await waiting.serve(4)

        assert waiting.served == ["old", "higher", "other", "new"]

    async def test_callers_own_keys_share_one_line(self, clock: FakeClock) -> None:
        turns = Turns(clock, LoadRules(max_in_flight=1, max_queued=100, queue_wait_s=30))
        turns.take()
        served = list[str]()

        async def wait(name: str, who: Key) -> None:
            await turns.wait(who, Somebody())
            served.append(name)

        strangers = [ForeignKey(**{**structs.asdict(key(id=f"x{n}")), "secret": "s"}) for n in range(3)]
        tasks = [asyncio.create_task(wait(each.id, each)) for each in strangers]
        await settled()
        tasks.append(asyncio.create_task(wait("ours", key())))
        await settled()
        for _ in range(4):
            turns.give_back()
            await settled()

        assert served == ["x0", "ours", "x1", "x2"]


class TestBounds:
    async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "abc":
            await waiting.add(name)

        with pytest.raises(OverloadedError) as refused:
            await turns.wait(key(), Somebody())

        assert (refused.value.status, refused.value.code) == (503, "overloaded")
        [(header, seconds)] = refused.value.headers
        assert header == b"retry-after"
        assert 1 <= int(seconds) <= 30
        assert turns.refused == {"full": 1, "displaced": 0, "waited": 0}

    async def test_a_higher_priority_takes_the_place_of_the_last(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "abc":
            await waiting.add(name)

        await waiting.add("urgent", 1)
        await waiting.serve(3)

        assert waiting.refused == ["c"]
        assert waiting.served == ["urgent", "a", "b"]
        assert turns.refused["displaced"] == 1

    async def test_nobody_waits_longer_than_allowed(self, clock: FakeClock) -> None:
        turns = Turns(clock, LoadRules(max_in_flight=1, max_queued=3, queue_wait_s=0.01))
        turns.take()

        with pytest.raises(OverloadedError):
            await turns.wait(key(), Somebody())

        assert (turns.queued, turns.taken, turns.refused["waited"]) == (0, 1, 1)

    async def test_without_places_everybody_is_refused_at_once(self, turns: Turns) -> None:
        turns.use(LoadRules(max_in_flight=1, max_queued=0))

        with pytest.raises(OverloadedError):
            await turns.wait(key(priority=100), Somebody())

    async def test_new_bounds_hold_at_once(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "abc":
            await waiting.add(name)

        turns.use(LoadRules(max_in_flight=3, max_queued=3, queue_wait_s=30))
        await settled()
        assert (waiting.served, turns.taken, turns.queued) == (["a", "b"], 3, 1)

        turns.use(LoadRules(max_in_flight=1, max_queued=3, queue_wait_s=30))
        await waiting.serve(2)
        assert (waiting.served, turns.taken, turns.queued) == (["a", "b"], 1, 1)
        await waiting.serve(1)
        assert (waiting.served, turns.taken) == (["a", "b", "c"], 1)

        turns.use(LoadRules(max_in_flight=0))
        assert all(turns.take() for _ in range(10_000))


class TestLeaving:
    async def test_who_leaves_gives_its_place_back_at_once(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "abc":
            await waiting.add(name)

        waiting.clients["b"].client_left = True
        waiting.tasks["b"].cancel()
        with pytest.raises(QueueLeftError):
            await waiting.tasks["b"]

        assert turns.queued == 2
        await waiting.add("d")
        await waiting.serve(3)
        assert waiting.served == ["a", "c", "d"]

    async def test_a_turn_that_comes_as_its_client_leaves_goes_to_the_next(self, turns: Turns) -> None:
        waiting = Waiting(turns)
        for name in "ab":
            await waiting.add(name)

        turns.give_back()
        waiting.tasks["a"].cancel()
        await settled()

        assert waiting.served == ["b"]
        assert (turns.taken, turns.queued) == (1, 0)

    async def test_a_thousand_who_come_wait_and_leave_lose_no_turn(self, clock: FakeClock) -> None:
        turns = Turns(clock, LoadRules(max_in_flight=10, max_queued=200, queue_wait_s=30))
        most = 0

        async def ask(number: int) -> None:
            nonlocal most
            if not turns.take():
                await turns.wait(key(id=str(number % 5), priority=number % 7), Somebody())
            try:
                most = max(most, turns.taken)
                for _ in range(number % 5):
                    await asyncio.sleep(0)
            finally:
                turns.give_back()

        tasks = [asyncio.create_task(ask(number)) for number in range(1000)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert (turns.taken, turns.queued, most) == (0, 0, 10)
        assert sum(isinstance(each, OverloadedError) for each in results) == sum(turns.refused.values()) > 0


class Gate:
    """An upstream that answers once it is let."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.asked: list[Any] = []
        self.transport = httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content)["user"])
        await self.opened.wait()
        return httpx.Response(200, json=CHAT, request=request)


def house(gate: Gate, *, most: int = 1, queued: int = 2, wait_s: float = 30) -> House:
    made = snapshot(load=LoadRules(max_in_flight=most, max_queued=queued, queue_wait_s=wait_s))
    urgent = KeyDigest(key("urgent", id="2", priority=50))
    made = replace(made, keys={**made.keys, digest(URGENT.encode(), PEPPER): urgent})
    return House(gate, made)  # type: ignore[arg-type]  # only its transport is used


async def asking(house: House, gate: Gate, user: str, secret: str = "") -> asyncio.Task[httpx.Response]:
    more = {"authorization": f"Bearer {secret}"} if secret else {}
    task = asyncio.create_task(house.chat({"user": user}, **more))
    await settled()
    return task


class TestRequests:
    async def test_requests_beyond_the_bound_wait_in_the_order_of_their_keys(self) -> None:
        gate = Gate()
        mine = house(gate)
        first = await asking(mine, gate, "first")
        second = await asking(mine, gate, "second")
        third = await asking(mine, gate, "third", URGENT)

        assert gate.asked == ["first"]
        gate.opened.set()
        answers = [(await each).status_code for each in (first, second, third)]

        assert answers == [200, 200, 200]
        assert gate.asked == ["first", "third", "second"]
        assert (mine.gateway.turns.taken, len(mine.ledger.closed)) == (0, 3)

    async def test_who_waits_holds_nothing(self) -> None:
        gate = Gate()
        mine = house(gate)
        first = await asking(mine, gate, "first")
        second = await asking(mine, gate, "second")

        assert len(mine.ledger.opened) == 1
        assert len(mine.gateway.exchanges) == 1

        gate.opened.set()
        assert [(await each).status_code for each in (first, second)] == [200, 200]

    async def test_beyond_the_queue_they_are_refused_with_a_log_line(self) -> None:
        gate = Gate()
        mine = house(gate, queued=0)
        first = await asking(mine, gate, "first")

        refused = await mine.chat({"user": "second"})

        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert mine.log.lines[-1]["error_type"] == "overloaded"
        assert mine.log.lines[-1]["key_name"] == "alice"
        gate.opened.set()
        await first

    async def test_a_client_that_leaves_the_queue_is_gone_at_once(self) -> None:
        gate = Gate()
        mine = house(gate)
        first = await asking(mine, gate, "first")
        caller = Caller()
        body = json.dumps({"model": "gpt", "user": "second", "messages": []}).encode()
        headers = {"authorization": "Bearer sk-gw-alicealice-0123456789abcdef"}
        second = asyncio.create_task(caller.call(mine.app, "POST", "/v1/chat/completions", body, headers))
        await settled()
        assert mine.gateway.turns.queued == 1

        caller.left.set()
        await second

        assert mine.gateway.turns.queued == 0
        assert caller.messages == []
        assert (mine.log.lines[-1]["http_status"], mine.log.lines[-1]["error_type"]) == (499, "client_left")
        gate.opened.set()
        await first
        assert gate.asked == ["first"]
        assert mine.ledger.running == set()

    async def test_after_waiting_it_is_still_noticed_when_the_client_leaves(self) -> None:
        gate = Gate()
        mine = house(gate)
        first = await asking(mine, gate, "first")
        caller = Caller()
        body = json.dumps({"model": "gpt", "user": "second", "messages": []}).encode()
        headers = {"authorization": "Bearer sk-gw-alicealice-0123456789abcdef"}
        second = asyncio.create_task(caller.call(mine.app, "POST", "/v1/chat/completions", body, headers))
        await settled()
        assert mine.gateway.turns.queued == 1
        first.cancel()
        await settled()
        assert gate.asked == ["first", "second"]
        mine.gateway.exchanges.tick()

        caller.left.set()
        await second

        assert mine.ledger.closed[-1]["error_type"] == "client_left"
        assert mine.gateway.turns.taken == 0

    @pytest.mark.parametrize("body", [{"model": "unknown"}, {"stream": True}, {}])
    async def test_every_exit_gives_the_turn_back(self, body: dict[str, Any]) -> None:
        gate = Gate()
        gate.opened.set()
        mine = house(gate)

        for _ in range(3):
            await mine.chat({"user": "x", **body})

        assert mine.gateway.turns.taken == 0

    async def test_a_ledger_that_is_full_keeps_no_turn(self) -> None:
        mine = house(Gate())
        mine.ledger.failing = True

        answers = [(await mine.chat()).json()["error"]["code"] for _ in range(2)]

        assert answers == ["ledger_unavailable"] * 2
        assert mine.gateway.turns.taken == 0

    async def test_the_wait_is_no_overhead_of_routing(self) -> None:
        gate = Gate()
        mine = house(gate)
        first = await asking(mine, gate, "first")
        second = await asking(mine, gate, "second")
        mine.clock.advance(4)
        gate.opened.set()
        await first
        await second

        route = mine.telemetry.figures.phases_s["route"]
        assert route.total < 1
        assert mine.gateway.turns.waits_s.total == pytest.approx(4)

    async def test_a_changed_bound_holds_for_the_next_request(self) -> None:
        gate = Gate()
        mine = house(gate, queued=0)
        first = await asking(mine, gate, "first")
        changed = replace(mine.snapshot, load=LoadRules(max_in_flight=2, max_queued=0))
        mine.gateway.use(changed, BudgetIndex(changed.budgets))

        second = await asking(mine, gate, "second")
        third = await mine.chat({"user": "third"})

        gate.opened.set()
        assert [(await first).status_code, (await second).status_code, third.status_code] == [200, 200, 503]

    async def test_pages_answer_while_no_request_can(self) -> None:
        gate = Gate()
        mine = house(gate, queued=0)
        first = await asking(mine, gate, "first")

        pages = [(await mine.get(path)).status_code for path in ("/health", "/health/live", "/metrics", "/v1/models")]

        assert pages == [200] * 4
        gate.opened.set()
        await first

    async def test_metrics_show_turns_and_refusals(self) -> None:
        gate = Gate()
        mine = house(gate, queued=1)
        first = await asking(mine, gate, "first")
        second = await asking(mine, gate, "second")
        await mine.chat({"user": "third"})

        page = (await mine.get("/metrics")).text

        for line in (
            "llmgateway_turns_taken 1.0",
            "llmgateway_turns_bound 1.0",
            "llmgateway_requests_queued 1.0",
            'llmgateway_overload_refusals_total{reason="full"} 1.0',
            'llmgateway_refusals_total{code="overloaded"} 1.0',
        ):
            assert line in page
        gate.opened.set()
        await first
        await second
        assert "llmgateway_queue_wait_seconds_count 1.0" in (await mine.get("/metrics")).text


class TestSessions:
    async def test_a_session_has_its_turn_until_it_ends(self) -> None:
        room = Room(Side(), Side())
        turns = room.house.gateway.turns
        turns.use(LoadRules(max_in_flight=1, max_queued=0))

        session = await room.open()
        with pytest.raises(OverloadedError):
            await room.open(2)
        room.client.says(SocketClosedError(1000))
        await session.run(room.client)

        assert turns.taken == 0
        again = await room.open(3)
        assert turns.taken == 1
        await again.abandon()
        assert turns.taken == 0

    async def test_a_session_that_nobody_takes_keeps_no_turn(self) -> None:
        room = Room(*(RefusedHandshakeError(503, b"{}"),) * 2)

        with pytest.raises(GatewayError):
            await room.open()

        assert room.house.gateway.turns.taken == 0

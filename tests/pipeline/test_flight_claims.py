"""Claims and flights by themselves: who asks, who waits, and what is left behind."""

from __future__ import annotations

import asyncio

from llmgateway.pipeline.cached_answers import KeptAnswer, Standing
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.flights import WIDEST, Flights
from llmgateway.stores.cache_memory import MemoryAnswers
from tests.fakes import FakeClock, Reply
from tests.gateways import CHAT, House
from tests.pipeline.flight_scene import calling, impatient, leave, slow
from tests.pipeline.test_caching import caching_house


class SharedAnswers(MemoryAnswers):
    """What several processes share, as far as one of them can see: claims that others hold."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.holder: bytes | None = None
        self.released: list[bool] = []
        self.renewed = 0

    async def claim(self, digest: bytes, token: bytes, youngest: float) -> KeptAnswer | Standing:
        found = await super().claim(digest, token, youngest)
        if isinstance(found, KeptAnswer):
            return found
        await asyncio.sleep(0)
        if self.holder not in {None, token}:
            return Standing.WAIT
        self.holder = token
        return Standing.LEAD

    def renew(self, digest: bytes, token: bytes) -> None:
        assert token == self.holder
        self.renewed += 1

    def release(self, digest: bytes, token: bytes, *, alone: bool) -> None:
        if token == self.holder:
            self.holder = None
            self.released.append(alone)


class TestClaims:
    """Of one process among several."""

    def house(self, *script: Reply) -> tuple[House, SharedAnswers]:
        made = caching_house(*script)
        store = SharedAnswers(made.clock)
        made.gateway.caching = Caching(made.gateway, store)
        return made, store

    async def test_a_claim_is_renewed_while_its_holder_asks_and_returned_with_the_answer(self) -> None:
        house, store = self.house(slow(0.05))
        caller, task = calling(house)
        await asyncio.sleep(0.01)

        house.gateway.caching.renew_leads()  # type: ignore[union-attr]
        await task
        house.gateway.caching.renew_leads()  # type: ignore[union-attr]

        assert caller.response().status_code == 200
        assert (store.renewed, store.released, store.holder) == (1, [False], None)

    async def test_while_another_process_leads_nobody_here_asks(self) -> None:
        house, store = self.house()
        store.holder = b"another process"
        calls = [calling(house) for _ in range(3)]
        await asyncio.sleep(0.05)

        other = caching_house(Reply.json(CHAT))
        await other.chat()
        kept = other.gateway.telemetry.figures.kept_answers
        assert isinstance(kept, MemoryAnswers)
        ((digest, entry),) = kept._entries.items()
        store.keep(digest, entry.answer, 60)
        await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 2)

        assert [caller.response().headers["x-gateway-cache"] for caller, _ in calls] == ["hit"] * 3
        assert not house.upstream.requests

    async def test_a_process_that_dies_is_followed(self) -> None:
        house, store = self.house(slow(0.01))
        store.holder = b"another process"
        calls = [calling(house) for _ in range(3)]
        await asyncio.sleep(0.05)

        store.holder = None
        await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 2)

        assert len(house.upstream.requests) == 1

    async def test_a_process_that_is_slow_is_not_waited_for(self) -> None:
        house, _ = self.house(slow(0.01))
        store = SharedAnswers(house.clock)
        store.holder = b"another process"
        impatient(house, store)
        calls = [calling(house) for _ in range(3)]

        await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 2)

        assert [caller.response().status_code for caller, _ in calls] == [200] * 3
        assert (len(house.upstream.requests), store.holder) == (1, b"another process")

    async def test_one_that_waits_for_another_process_may_leave(self) -> None:
        house, store = self.house(slow(0.01))
        store.holder = b"another process"
        first, waiting = calling(house)
        second, following = calling(house)
        await asyncio.sleep(0.05)

        await leave(house, first, waiting)
        store.holder = None
        await asyncio.wait_for(following, 2)

        assert second.response().status_code == 200
        assert store.holder is None

    async def test_failures_let_more_of_the_same_process_try_under_one_claim(self) -> None:
        house, store = self.house(*[slow(0.02, {"error": {"message": "no"}}, 400) for _ in range(20)])
        calls = [calling(house) for _ in range(20)]

        await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 2)

        assert [caller.response().status_code for caller, _ in calls] == [400] * 20
        assert store.holder is None
        assert set(store.released) == {False}

    async def test_others_are_told_that_an_answer_is_not_to_be_kept(self) -> None:
        filtered = CHAT | {"choices": [CHAT["choices"][0] | {"finish_reason": "content_filter"}]}  # type: ignore[index]
        house, store = self.house(Reply.json(filtered))

        await house.chat()

        assert store.released == [True]


class TestFlights:
    async def test_each_failure_lets_one_more_try(self) -> None:
        flights = Flights()
        flight = flights.of(b"q")
        assert await flights.board(flight, 60) is Standing.LEAD
        waiting = [asyncio.create_task(flights.board(flight, 60)) for _ in range(100)]
        await asyncio.sleep(0)

        led = []
        while len(flights):
            flights.leave(flight, failed=True)
            await asyncio.sleep(0)
            led.append(sum(task.done() for task in waiting))

        assert led[:3] == [2, 4, 6]
        assert flight.width <= WIDEST
        assert led[-1] == 100

    async def test_one_that_is_called_to_lead_and_goes_passes_it_on(self) -> None:
        flights = Flights()
        flight = flights.of(b"q")
        await flights.board(flight, 60)
        second, third = (asyncio.create_task(flights.board(flight, 60)) for _ in range(2))
        await asyncio.sleep(0)

        flights.leave(flight)
        second.cancel()
        await asyncio.sleep(0.01)

        assert third.done()
        assert third.result() is Standing.LEAD

    async def test_a_leader_of_an_earlier_flight_does_not_disturb_a_later_one(self) -> None:
        flights = Flights()
        earlier = flights.of(b"q")
        await flights.board(earlier, 60)
        flights.land(earlier, Standing.ALONE)
        later = flights.of(b"q")
        await flights.board(later, 60)

        flights.leave(earlier, failed=True)

        assert flights.of(b"q") is later
        assert later.leaders == 1

"""Identical requests at the same moment: one is sent, all are answered, whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from llmgateway.http import httpx
from llmgateway.pipeline.snapshot import BudgetRule, Retries
from tests.fakes import Reply
from tests.gateways import CHAT, PRICE, SECRET, key
from tests.pipeline.flight_scene import calling, impatient, leave, slow
from tests.pipeline.streams import EVENTS, WITHOUT_USAGE, events
from tests.pipeline.test_caching import OTHER, caching_house, keys_with, swap

COST = 11 * PRICE.input + 5 * PRICE.output


async def test_a_thousand_at_once_are_one_upstream_call_and_one_cost() -> None:
    house = caching_house(slow())

    answers = await asyncio.gather(*[house.chat() for _ in range(1000)])

    assert [answer.status_code for answer in answers] == [200] * 1000
    assert all(answer.json() == CHAT for answer in answers)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 1000
    assert len(house.upstream.requests) == 1
    assert sum(row["cost_pico_usd"] for row in house.ledger.closed) == COST
    assert sum(row["saved_pico_usd"] for row in house.ledger.closed if row["cache"] == "hit") == 999 * COST
    assert len(house.ledger.closed) == 1000
    assert not house.ledger.running
    assert len(house.gateway.exchanges) == 0


async def test_those_who_want_a_stream_share_with_those_who_do_not() -> None:
    house = caching_house(Reply(*slow().__dict__.values()))

    whole, stream = await asyncio.gather(house.chat(), house.chat({"stream": True}))

    assert len(house.upstream.requests) == 1
    assert whole.json() == CHAT
    assert b"Hello" in stream.content


async def test_followers_wait_for_a_stream_to_end() -> None:
    house = caching_house(Reply.events(EVENTS[0], 0.05, *EVENTS[1:]))

    first, second = await asyncio.gather(house.chat({"stream": True}), house.chat({"stream": True}))

    assert len(house.upstream.requests) == 1
    assert first.content == second.content


async def test_when_the_leaders_client_leaves_the_next_takes_over() -> None:
    house = caching_house(slow(60), slow())
    leader, leading = calling(house)
    followers = [calling(house) for _ in range(5)]
    await asyncio.sleep(0.01)

    await leave(house, leader, leading)
    await asyncio.wait_for(asyncio.gather(*[task for _, task in followers]), 2)

    assert len(house.upstream.requests) == 2
    assert [caller.response().status_code for caller, _ in followers] == [200] * 5
    assert [caller.response().headers["x-gateway-cache"] for caller, _ in followers].count("hit") == 4
    assert not house.ledger.running


async def test_when_a_streaming_leaders_client_leaves_the_next_takes_over() -> None:
    house = caching_house(Reply.events(EVENTS[0], 60.0, *EVENTS[1:]), events())
    leader, leading = calling(house, stream=True)
    await leader.got(1)
    follower, following = calling(house, stream=True)
    await asyncio.sleep(0.01)

    await leave(house, leader, leading)
    await asyncio.wait_for(following, 2)

    assert follower.response().status_code == 200
    assert len(house.upstream.requests) == 2


async def test_a_follower_that_leaves_disturbs_nobody() -> None:
    house = caching_house(slow())
    leader, leading = calling(house)
    follower, following = calling(house)
    await asyncio.sleep(0.01)

    await leave(house, follower, following)
    await asyncio.wait_for(leading, 2)

    assert leader.response().status_code == 200
    assert len(house.upstream.requests) == 1
    assert len(house.ledger.closed) == 1


async def test_a_leader_that_fails_hands_over_to_one_and_then_to_more() -> None:
    failing = [slow(0.02, {"error": {"message": "no"}}, 400) for _ in range(3)]
    house = caching_house(*failing, *[slow() for _ in range(4)])
    calls = [calling(house) for _ in range(20)]

    await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 3)

    statuses = [caller.response().status_code for caller, _ in calls]
    assert statuses.count(400) == 3
    assert statuses.count(200) == 17
    assert len(house.upstream.requests) == 7  # One, then two; and for each of these that failed, two more.


async def test_callers_who_may_not_ask_do_not_let_more_of_the_others_ask() -> None:
    spent = BudgetRule(1, "spent", "key", "2", "total", 0, "UTC")
    poor = key("poor", id="2", public_id="poor", budgets=(spent,))
    house = caching_house(slow(0.02))
    swap(house, keys=keys_with(house.snapshot, poor))
    secrets = [OTHER, OTHER, OTHER, SECRET, SECRET, SECRET]

    house.gateway.budgets_ready.clear()  # So that the first is refused when the others wait for it.
    asking = [asyncio.create_task(house.chat(authorization=f"Bearer {secret}")) for secret in secrets]
    await asyncio.sleep(0.01)
    house.gateway.budgets_ready.set()
    answers = await asyncio.gather(*asking)

    assert [answer.status_code for answer in answers] == [402] * 3 + [200] * 3
    assert len(house.upstream.requests) == 1


async def test_an_error_of_the_connection_reaches_the_leader_alone() -> None:
    house = caching_house(httpx.ConnectError("refused"), slow(), retries=Retries(attempts=0))
    calls = [calling(house) for _ in range(3)]

    await asyncio.wait_for(asyncio.gather(*[task for _, task in calls]), 3)

    assert sorted(caller.response().status_code for caller, _ in calls) == [200, 200, 502]


async def test_what_is_not_to_be_kept_is_asked_for_by_everybody() -> None:
    filtered = CHAT | {"choices": [CHAT["choices"][0] | {"finish_reason": "content_filter"}]}  # type: ignore[index]
    house = caching_house(*[slow(0.02, filtered) for _ in range(5)])

    answers = await asyncio.gather(*[house.chat() for _ in range(5)])

    assert [answer.headers["x-gateway-cache"] for answer in answers] == ["miss"] * 5


async def test_a_follower_that_takes_over_has_what_is_left_of_its_time() -> None:
    house = caching_house(slow(60), slow(60))
    leader, leading = calling(house)
    follower, following = calling(house)
    await asyncio.sleep(0.01)
    house.clock.advance(400)
    await leave(house, leader, leading)
    await asyncio.sleep(0.01)
    assert len(house.upstream.requests) == 2

    house.clock.advance(201)
    house.gateway.exchanges.tick()
    await asyncio.wait_for(following, 2)

    assert follower.response().status_code == 504


async def test_a_follower_waits_no_longer_than_its_deadline() -> None:
    house = caching_house(slow(60))
    leader, leading = calling(house)
    await asyncio.sleep(0.01)
    follower, following = calling(house)
    await asyncio.sleep(0.01)

    house.clock.advance(601)
    house.gateway.exchanges.tick()
    await asyncio.wait_for(asyncio.gather(leading, following), 2)

    assert follower.response().status_code == leader.response().status_code == 504
    assert len(house.gateway.exchanges) == 0


async def test_those_who_wait_for_too_large_an_answer_ask_as_soon_as_that_is_known() -> None:
    large = b"x" * (3 * 2**20)
    house = caching_house(Reply.events(EVENTS[0].replace(b"Hel", large), 60.0, *EVENTS[1:]), events())
    leader, leading = calling(house, stream=True)
    follower, following = calling(house, stream=True)

    await asyncio.wait_for(following, 3)

    assert follower.response().status_code == 200
    assert not leading.done()
    await leave(house, leader, leading)


async def test_a_leader_that_is_slow_holds_up_nobody_for_long_and_lets_one_more_ask() -> None:
    house = impatient(caching_house(slow(60), slow(0.01)))
    leader, leading = calling(house)
    followers = [calling(house) for _ in range(20)]

    await asyncio.wait_for(asyncio.gather(*[task for _, task in followers]), 2)

    assert len(house.upstream.requests) == 2
    assert [caller.response().headers["x-gateway-cache"] for caller, _ in followers].count("hit") == 19
    assert not leading.done()
    await leave(house, leader, leading)


async def test_a_client_that_hardly_reads_holds_up_nobody_for_long() -> None:
    house = impatient(caching_house(Reply.events(EVENTS[0], 60.0, *EVENTS[1:]), events()))
    leader, leading = calling(house, stream=True)
    await leader.got(1)
    follower, following = calling(house, stream=True)

    await asyncio.wait_for(following, 2)

    assert follower.response().status_code == 200
    await leave(house, leader, leading)


class Counted(list[bytes]):
    """Pieces of an answer, as far as they have been fetched."""

    taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for each in super().__iter__():
            self.taken += 1
            yield each


class TestALeaderThatHardlyReads:
    """Others have the answer once it is here; what it has not taken waits for it, as far as it is kept anyway."""

    async def test_others_have_a_stream_that_it_has_not_read(self) -> None:
        house = caching_house(events())
        leader, leading = calling(house, stream=True)
        leader.stuck_after = 0
        follower, following = calling(house, stream=True)

        await asyncio.wait_for(following, 1)

        assert follower.response().content == WITHOUT_USAGE
        assert follower.response().headers["x-gateway-cache"] == "hit"
        assert (len(house.upstream.requests), len(leader.chunks), leading.done()) == (1, 1, False)
        assert house.gateway.turns.taken == 1, "it keeps its turn until it has read"
        await leave(house, leader, leading)
        assert (house.gateway.turns.taken, len(house.gateway.exchanges)) == (0, 0)
        assert [row["status"] for row in house.ledger.closed] == ["completed"] * 2

    async def test_others_have_a_whole_answer_that_it_has_not_read(self) -> None:
        house = caching_house(slow())
        leader, leading = calling(house)
        leader.stuck_after = 0
        follower, following = calling(house)

        await asyncio.wait_for(following, 1)

        assert follower.response().json() == CHAT
        assert (len(house.upstream.requests), leading.done()) == (1, False)
        await leave(house, leader, leading)

    async def test_once_it_reads_it_gets_all_of_it_in_order(self) -> None:
        house = caching_house(events())
        leader, leading = calling(house, stream=True)
        leader.stuck_after = 1
        follower, following = calling(house, stream=True)
        await asyncio.wait_for(following, 1)

        leader.go_on()
        await asyncio.wait_for(leading, 1)

        assert leader.response().content == follower.response().content

    async def test_it_is_not_hurried_once_the_provider_is_done(self) -> None:
        house = caching_house(events())
        leader, leading = calling(house, stream=True)
        leader.stuck_after = 0
        await asyncio.sleep(0.01)

        house.clock.advance(500)
        house.gateway.exchanges.tick()
        await asyncio.sleep(0)
        leader.go_on()
        await asyncio.wait_for(leading, 1)

        assert leader.response().content == WITHOUT_USAGE

    async def test_one_that_leaves_before_the_answer_is_here_leaves_no_task_behind(self) -> None:
        house = caching_house(Reply.events(EVENTS[0], EVENTS[1], 60.0, *EVENTS[2:]), events())
        before = asyncio.all_tasks()
        leader, leading = calling(house, stream=True)
        leader.stuck_after = 0
        await leader.got(1)

        await leave(house, leader, leading)
        await asyncio.sleep(0)

        assert asyncio.all_tasks() == before
        assert [row["status"] for row in house.ledger.closed] == ["cancelled"]

    async def test_what_is_too_large_to_be_kept_is_fetched_no_faster_than_it_reads(self) -> None:
        large = EVENTS[1].replace(b"lo", b"x" * 2**20)
        script = Counted([EVENTS[0], *[large] * 20, *EVENTS[2:]])
        house = caching_house(Reply(200, {"content-type": "text/event-stream"}, script))
        leader, leading = calling(house, stream=True)
        leader.stuck_after = 0

        await asyncio.sleep(0.05)

        assert script.taken == 3, "with this one it was too large"
        await leave(house, leader, leading)


async def test_a_follower_keeps_half_of_its_time_for_asking_itself() -> None:
    house = caching_house(slow(60), slow(0.01))
    leader, leading = calling(house)
    await asyncio.sleep(0.01)

    answer = await asyncio.wait_for(house.chat(x_request_timeout_ms="200"), 2)

    assert (answer.status_code, answer.headers["x-gateway-cache"]) == (200, "miss")
    assert len(house.upstream.requests) == 2
    await leave(house, leader, leading)

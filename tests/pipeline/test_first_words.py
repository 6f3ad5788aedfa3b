"""A stream belongs to its client from its first words on; before them another target can still take over."""

from __future__ import annotations

import asyncio
import json

from llmgateway.http import httpx
from llmgateway.pipeline.obtaining import HELD_BACK_BYTES
from llmgateway.pipeline.snapshot import BudgetRule, Retries
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import House, alias, deployment, key, snapshot
from tests.pipeline.attempt_scenes import (
    COMMENT,
    DONE,
    ROLE,
    USAGE,
    Visit,
    check_returned,
    error_event,
    said,
)

FIRST, SECOND = deployment("first"), deployment("second", 2)
NO_RETRIES = Retries(attempts=0)
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
ANSWER = (ROLE, said("Hel"), said("lo"), USAGE, DONE)


def house(*replies: Reply | Exception, targets: int = 2) -> House:
    return House(ScriptedUpstream(*replies), snapshot(alias("gpt", *(FIRST, SECOND)[:targets]), retries=NO_RETRIES))


def causes(place: House) -> list[str]:
    return [attempt["cause"] for attempt in place.row["attempts"]]


async def test_a_target_that_stalls_behind_comments_is_given_up_for_another() -> None:
    place = house(Reply.events(COMMENT, 60.0), Reply.events(*ANSWER))
    visit = Visit(place, STREAM)

    await visit.pass_time(61)
    response = await visit.answer()

    assert response.content == b"".join(ANSWER)
    assert response.headers["x-gateway-deployment"] == "second"
    assert response.headers["x-gateway-attempts"] == "2"
    assert causes(place) == ["timeout", "completed"]
    assert place.upstream.streams[0].closed
    check_returned(place, FIRST, SECOND)


async def test_a_role_is_no_first_word() -> None:
    place = house(Reply.events(ROLE, 60.0), Reply.events(*ANSWER))
    visit = Visit(place, STREAM)

    await visit.pass_time(61)

    assert (await visit.answer()).content == b"".join(ANSWER)


async def test_what_was_held_back_goes_out_unchanged_and_in_order() -> None:
    pieces = (COMMENT, COMMENT[:5], COMMENT[5:], ROLE[:9], ROLE[9:], said("Hel"), said("lo"), USAGE, DONE)
    place = house(Reply.events(*pieces))

    response = await Visit(place, STREAM).answer()

    assert response.content == b"".join(pieces)
    assert causes(place) == ["completed"]


async def test_first_words_do_not_wait_for_second_ones() -> None:
    place = house(Reply.events(COMMENT, said("Hel"), 60.0))
    visit = Visit(place, STREAM)

    await asyncio.wait_for(visit.caller.got(1), 1)

    assert visit.caller.chunks == [COMMENT + said("Hel")]
    await visit.leave()


async def test_a_stream_that_says_nothing_for_long_is_passed_on_as_it_is() -> None:
    comments = [b": " + b"x" * 8000 + b"\n\n"] * 9
    assert len(b"".join(comments)) > HELD_BACK_BYTES
    place = house(Reply.events(*comments, 60.0))
    visit = Visit(place, STREAM)

    await asyncio.wait_for(visit.caller.got(1), 1)

    assert visit.caller.chunks == [b"".join(comments)]
    await visit.leave()


async def test_a_stream_without_any_word_is_delivered_as_it_is() -> None:
    place = house(Reply.events(ROLE, USAGE, DONE))

    response = await Visit(place, STREAM).answer()

    assert response.content == ROLE + USAGE + DONE
    assert (place.row["status"], place.row["input"], place.row["output"]) == ("completed", 11, 5)


async def test_a_stream_that_begins_with_an_error_is_a_failed_attempt() -> None:
    broken = Reply.events(ROLE, error_event(message="busy", type="server_error", code="overloaded"))
    place = house(broken, Reply.events(*ANSWER))

    response = await Visit(place, STREAM).answer()

    assert response.content == b"".join(ANSWER)
    assert causes(place) == ["overloaded", "completed"]
    check_returned(place, FIRST, SECOND)


async def test_if_nobody_else_can_answer_the_error_comes_as_the_provider_sent_it() -> None:
    event = error_event(message="busy", code=529)
    place = house(Reply.events(COMMENT, event), targets=1)

    response = await Visit(place, STREAM).answer()

    assert (response.status_code, response.content) == (200, COMMENT + event)
    assert response.headers["content-type"] == "text/event-stream"
    assert (place.row["status"], place.row["error_type"], place.row["cost_pico_usd"]) == ("failed", "overloaded", 0)


async def test_an_error_that_blames_the_request_is_told_to_nobody_else() -> None:
    event = error_event(message="too long", type="invalid_request_error", code="context_length_exceeded")
    place = house(Reply.events(event))

    response = await Visit(place, STREAM).answer()

    assert response.content == event
    assert causes(place) == ["context_too_long"]


async def test_an_error_that_used_something_is_delivered_and_charged() -> None:
    event = error_event(message="busy", code="overloaded")
    place = house(Reply.events(USAGE, event))

    response = await Visit(place, STREAM).answer()

    assert response.content == USAGE + event
    assert place.row["cost_pico_usd"] == 11 * 2 + 5 * 10


async def test_an_error_after_the_first_word_stays_where_it_is() -> None:
    event = error_event(message="busy", code="overloaded")
    place = house(Reply.events(said("Hel"), event))

    response = await Visit(place, STREAM).answer()

    assert response.content == said("Hel") + event
    assert causes(place) == ["upstream_error"]


async def test_a_connection_that_breaks_behind_a_comment_goes_to_the_next_target() -> None:
    place = house(Reply.events(COMMENT, httpx.ReadError("reset")), Reply.events(*ANSWER))

    response = await Visit(place, STREAM).answer()

    assert response.content == b"".join(ANSWER)
    assert causes(place) == ["connection_broken", "completed"]


async def test_a_client_that_leaves_while_words_are_awaited_ends_the_attempt_at_once() -> None:
    place = house(Reply.events(COMMENT, 60.0))
    visit = Visit(place, STREAM)
    await visit.asked(1)

    await visit.leave()

    assert visit.caller.messages == []
    assert (place.row["status"], place.row["usage_source"], place.row["output"]) == ("cancelled", "estimated", 0)
    assert place.row["cost_pico_usd"] > 0
    check_returned(place, FIRST)


async def test_a_client_that_leaves_meanwhile_is_read_on_for_where_that_is_asked_for() -> None:
    patient = deployment("first", drain_s=5.0)
    place = House(ScriptedUpstream(Reply.events(ROLE, 0.1, said("Hi"), USAGE, DONE)), snapshot(alias("gpt", patient)))
    visit = Visit(place, STREAM)
    await visit.asked(1)
    await asyncio.sleep(0.01)

    await visit.leave()
    await asyncio.sleep(0.15)

    assert (place.row["status"], place.row["usage_source"], place.row["output"]) == ("cancelled", "provider", 5)
    check_returned(place, patient)


class TestBegunUsage:
    """Claude says what its input was before it says anything else."""

    START = {
        "type": "message_start",
        "message": {"model": "claude-x", "usage": {"input_tokens": 40, "output_tokens": 1}},
    }
    BEGUN = b"event: message_start\ndata: " + json.dumps(START).encode() + b"\n\n"
    CLAUDE = deployment("first", adapter=get_adapter("anthropic"))

    def house(self, *, strict: bool) -> House:
        daily = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC", strict=strict)
        return House(
            ScriptedUpstream(Reply.events(self.BEGUN, 60.0), Reply.events(*ANSWER)),
            snapshot(alias("gpt", self.CLAUDE, SECOND), who=key(budgets=(daily,)), retries=NO_RETRIES),
        )

    async def test_what_a_stalled_target_has_said_of_its_input_stays_in_the_rows_cost(self) -> None:
        place = self.house(strict=False)
        visit = Visit(place, STREAM)

        await visit.pass_time(61)
        response = await visit.answer()

        assert response.content == b"".join(ANSWER)
        assert [attempt["cost_pico_usd"] for attempt in place.row["attempts"]] == [40 * 2, 11 * 2 + 5 * 10]
        assert place.row["cost_pico_usd"] == 40 * 2 + 11 * 2 + 5 * 10
        assert place.row["output"] == 5
        check_returned(place, self.CLAUDE, SECOND)

    async def test_a_strict_budget_that_has_paid_for_one_attempt_pays_for_no_other(self) -> None:
        place = self.house(strict=True)
        visit = Visit(place, STREAM)

        await visit.pass_time(61)
        response = await visit.answer()

        assert (response.status_code, len(place.upstream.requests)) == (504, 1)
        assert (place.row["status"], place.row["cost_pico_usd"], place.row["input"]) == ("failed", 80, 40)
        assert place.row["usage_source"] == "estimated"
        check_returned(place, self.CLAUDE, SECOND)

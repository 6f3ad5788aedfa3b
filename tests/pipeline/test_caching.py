"""Kept answers, seen from outside: what a second request gets, what it costs, and who gets none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing.windows import load_zone
from llmgateway.key_secrets import digest
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.route_rules import CacheRule, CacheSettings, CircuitRules, Fallback, FallbackCause, Parameters
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Key, KeyDigest, Retries, Snapshot, Target
from llmgateway.stores.cache_memory import MemoryAnswers
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PEPPER, PRICE, SECRET, House, alias, deployment, key, snapshot
from tests.pipeline.streams import EVENTS, events

load_zone("UTC")  # From disk, once.

NONE = Retries(attempts=0)
OTHER = "sk-gw-bobbobbobb-0123456789abcdef"
COST = 11 * PRICE.input + 5 * PRICE.output


def caching_house(
    *script: Reply | Exception,
    rule: CacheRule | None = CacheRule(ttl_s=60),  # noqa: B008  # It is frozen.
    settings: CacheSettings = CacheSettings(enabled=True),  # noqa: B008
    aliases: tuple[Alias, ...] = (),
    who: Key | None = None,
    **changes: Any,
) -> House:
    known = aliases or (replace(alias("gpt", deployment()), cache=rule),)
    house = House(ScriptedUpstream(*script), snapshot(*known, who=who, cache=settings, **changes))
    house.gateway.caching = Caching(house.gateway, MemoryAnswers(house.clock))
    return house


def swap(house: House, **changes: Any) -> None:
    house.gateway.use(replace(house.gateway.snapshot, **changes), house.gateway.budget_index)


class TestHits:
    async def test_the_second_request_is_not_sent(self) -> None:
        house = caching_house(Reply.json(CHAT))

        first = await house.chat()
        house.clock.advance(5)
        second = await house.chat()

        assert (first.headers["x-gateway-cache"], second.headers["x-gateway-cache"]) == ("miss", "hit")
        assert second.json() == first.json() == CHAT
        assert second.headers["age"] == "5"
        assert second.headers["x-request-id"] != first.headers["x-request-id"]
        assert second.headers["content-type"] == "application/json"
        assert len(house.upstream.requests) == 1

    async def test_a_hit_says_who_answered_and_that_it_cost_nothing(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        hit = await house.chat()

        assert hit.headers["x-gateway-model"] == "gpt"
        assert hit.headers["x-gateway-provider"] == "provider-main"
        assert hit.headers["x-gateway-attempts"] == "0"
        assert hit.headers["x-gateway-cost-usd"] == "0"
        assert (hit.headers["x-llm-input-tokens"], hit.headers["x-llm-output-tokens"]) == ("11", "5")

    async def test_the_row_of_a_hit_is_free_and_says_what_it_saved(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        await house.chat()

        miss, hit = house.ledger.closed
        assert (miss["cache"], miss["cost_pico_usd"]) == ("miss", COST)
        assert (hit["cache"], hit["cost_pico_usd"], hit["saved_pico_usd"]) == ("hit", 0, COST)
        assert (hit["status"], hit["http_status"], hit["attempts"]) == ("completed", 200, [])
        assert (hit["input"], hit["output"], hit["usage_source"]) == (0, 0, "none")
        assert (hit["provider"], hit["deployment"], hit["model"]) == ("", "", "gpt-upstream")
        assert hit["response_model"] == "gpt-upstream-2026"
        assert not house.ledger.running

    async def test_the_saving_is_at_todays_price(self) -> None:
        house = caching_house(Reply.json(CHAT))
        await house.chat()
        dearer = deployment(prices=(replace(PRICE, input=20),))

        swap(house, aliases={"gpt": replace(alias("gpt", dearer), cache=CacheRule(ttl_s=60))})
        await house.chat()

        assert house.ledger.closed[-1]["saved_pico_usd"] == 11 * 20 + 5 * PRICE.output

    async def test_metrics_count_results_and_savings(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        await house.chat()
        page = (await house.get("/metrics")).text

        assert 'llmproxy_cache_hits_total{result="hit"} 1.0' in page
        assert 'llmproxy_cache_hits_total{result="miss"} 1.0' in page
        assert f"llmproxy_cost_savings_from_cache_usd_total {COST / 1e12}" in page
        assert "llmgateway_cache_entries 1.0" in page

    async def test_embeddings_are_kept(self) -> None:
        vectors = {
            "object": "list",
            "data": [{"index": 0, "embedding": [0.1]}],
            "model": "e",
            "usage": {"prompt_tokens": 3},
        }
        house = caching_house(Reply.json(vectors))

        first = await house.post("/v1/embeddings", {"model": "gpt", "input": "a"})
        second = await house.post("/v1/embeddings", {"input": "a", "model": "gpt", "user": "somebody else"})

        assert second.headers["x-gateway-cache"] == "hit"
        assert second.json() == first.json()

    async def test_an_answer_that_calls_tools_is_kept(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "finish_reason": "tool_calls",
        }
        house = caching_house(Reply.json(CHAT | {"choices": [choice]}))

        await house.chat()

        assert (await house.chat()).json()["choices"][0]["message"]["tool_calls"] == [call]


class TestWhoAsksForIt:
    async def test_nothing_is_kept_while_the_switch_is_off(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), settings=CacheSettings(enabled=False))

        await house.chat(x_gateway_cache="on")
        again = await house.chat(x_gateway_cache="on")

        assert "x-gateway-cache" not in again.headers
        assert len(house.upstream.requests) == 2

    async def test_an_alias_without_a_cache_keeps_nothing_unasked(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), rule=None)

        await house.chat()
        again = await house.chat()

        assert "x-gateway-cache" not in again.headers
        assert len(house.upstream.requests) == 2

    async def test_a_request_may_ask_for_it(self) -> None:
        house = caching_house(Reply.json(CHAT), rule=None)

        await house.chat(x_gateway_cache="on")

        assert (await house.chat(x_gateway_cache="on")).headers["x-gateway-cache"] == "hit"

    @pytest.mark.parametrize("headers", [{"x_gateway_cache": "off"}, {"cache_control": "no-store"}])
    async def test_a_request_may_have_nothing_to_do_with_it(self, headers: dict[str, Any]) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        without = await house.chat(**headers)
        await house.chat({"seed": 1}, **headers)

        assert "x-gateway-cache" not in without.headers
        assert len(house.upstream.requests) == 3
        assert house.gateway.telemetry.figures.kept_answers.entry_count == 1  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "headers", [{"x_gateway_cache": "refresh"}, {"cache_control": "no-cache"}, {"cache_control": "max-age=0"}]
    )
    async def test_a_request_may_want_a_new_answer(self, headers: dict[str, Any]) -> None:
        new = CHAT | {"id": "chatcmpl-2"}
        house = caching_house(Reply.json(CHAT), Reply.json(new))

        await house.chat()
        refreshed = await house.chat(**headers)
        after = await house.chat()

        assert (refreshed.json()["id"], refreshed.headers["x-gateway-cache"]) == ("chatcmpl-2", "refresh")
        assert (after.json()["id"], after.headers["x-gateway-cache"]) == ("chatcmpl-2", "hit")

    async def test_a_request_says_how_old_an_answer_may_be(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT | {"id": "chatcmpl-2"}))

        await house.chat()
        house.clock.advance(10)
        young_enough = await house.chat(cache_control="max-age=11")
        too_old = await house.chat(cache_control="max-age=10")

        assert young_enough.headers["x-gateway-cache"] == "hit"
        assert (too_old.headers["x-gateway-cache"], too_old.json()["id"]) == ("miss", "chatcmpl-2")

    async def test_an_unknown_word_is_refused(self) -> None:
        house = caching_house()

        refused = await house.chat(x_gateway_cache="yes please")

        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "x-gateway-cache"

    async def test_answers_grow_old(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        house.clock.advance(59.9)
        assert (await house.chat()).headers["x-gateway-cache"] == "hit"
        house.clock.advance(0.1)

        assert (await house.chat()).headers["x-gateway-cache"] == "miss"

    async def test_a_shorter_time_holds_for_answers_that_are_kept_already(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        house.clock.advance(10)
        swap(house, aliases={"gpt": replace(alias("gpt", deployment()), cache=CacheRule(ttl_s=5))})

        assert (await house.chat()).headers["x-gateway-cache"] == "miss"


class TestWhoGetsIt:
    async def test_keys_of_a_team_share_answers_and_other_teams_do_not(self) -> None:
        bob = key("bob", id="2", public_id="bobbobbobb")
        stranger = key("eve", id="3", team_id=4, team_name="blue")
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        swap(house, keys=keys_with(house.snapshot, bob))
        shared = await house.chat(authorization=f"Bearer {OTHER}")
        swap(house, keys=keys_with(house.snapshot, stranger))
        not_shared = await house.chat(authorization=f"Bearer {OTHER}")

        assert (shared.headers["x-gateway-cache"], not_shared.headers["x-gateway-cache"]) == ("hit", "miss")

    async def test_keys_without_a_team_share_nothing(self) -> None:
        alone = key(team_id=0, team_name="")
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), who=alone)

        await house.chat()
        swap(house, keys=keys_with(house.snapshot, key("bob", id="2", team_id=0, team_name="")))

        assert (await house.chat(authorization=f"Bearer {OTHER}")).headers["x-gateway-cache"] == "miss"

    async def test_a_key_that_is_disabled_gets_no_hit(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        swap(house, keys={digest(SECRET.encode(), PEPPER): KeyDigest(key(enabled=False))})
        refused = await house.chat()

        assert refused.status_code == 403

    async def test_a_key_that_may_not_call_the_model_gets_no_hit(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        swap(house, keys={digest(SECRET.encode(), PEPPER): KeyDigest(key(models=frozenset({"other"})))})
        refused = await house.chat()

        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")

    async def test_a_key_gets_no_answer_of_a_nested_alias_that_it_may_not_call(self) -> None:
        best, usual = alias("best", deployment()), alias("usual", deployment("b", 2))
        front = Alias(
            7, "gpt", 0, "priority", (Target(None, alias=best), Target(None, alias=usual)), cache=CacheRule(ttl_s=60)
        )
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), aliases=(front, best, usual))

        await house.chat()
        colleague = key("bob", id="2", models=frozenset({"gpt", "usual"}))
        swap(house, keys=keys_with(house.snapshot, colleague))
        other = await house.chat(authorization=f"Bearer {OTHER}")

        assert (other.headers["x-gateway-cache"], other.headers["x-gateway-deployment"]) == ("miss", "b")

    async def test_a_route_that_changed_does_not_give_the_old_models_answers(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        swap(house, aliases={"gpt": replace(alias("gpt", deployment(model="gpt-next")), cache=CacheRule(ttl_s=60))})

        assert (await house.chat()).headers["x-gateway-cache"] == "miss"


def keys_with(known: Snapshot, more: Key) -> dict[bytes, KeyDigest]:
    return {**known.keys, digest(OTHER.encode(), PEPPER): KeyDigest(more)}


class TestWhatIsKept:
    @pytest.mark.parametrize(
        "answer",
        [
            Reply.json({"error": {"message": "no"}}, status=400),
            Reply.json({"error": {"message": "no"}}),
            Reply.json(CHAT | {"choices": []}),
            Reply.json(CHAT | {"choices": [CHAT["choices"][0] | {"finish_reason": "content_filter"}]}),  # type: ignore[index]
        ],
        ids=["status", "error inside 200", "nothing", "filtered"],
    )
    async def test_what_is_no_good_answer_is_not_kept(self, answer: Reply) -> None:
        house = caching_house(answer, Reply.json(CHAT))

        await house.chat()
        second = await house.chat()

        assert second.headers["x-gateway-cache"] == "miss"
        assert second.json() == CHAT

    async def test_what_the_provider_keeps_is_not_kept_here(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat({"store": True})

        assert "x-gateway-cache" not in (await house.chat({"store": True})).headers

    async def test_a_stream_that_breaks_off_is_not_kept(self) -> None:
        house = caching_house(Reply.events(EVENTS[0], EVENTS[1]), events())

        await house.chat({"stream": True})
        second = await house.chat({"stream": True})

        assert second.headers["x-gateway-cache"] == "miss"

    async def test_a_stream_that_ends_in_an_error_is_not_kept(self) -> None:
        error = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
        house = caching_house(Reply.events(*EVENTS[:3], error), events())

        await house.chat({"stream": True})

        assert (await house.chat({"stream": True})).headers["x-gateway-cache"] == "miss"

    async def test_an_answer_that_is_too_large_is_not_kept(self) -> None:
        large = CHAT | {"padding": "x" * (3 * 2**20)}
        house = caching_house(Reply.json(large), Reply.json(large))

        await house.chat()
        second = await house.chat()

        assert second.headers["x-gateway-cache"] == "miss"
        assert second.json() == large


class TestPurging:
    async def test_a_purge_of_the_alias_forgets_and_frees(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        swap(house, aliases={"gpt": replace(alias("gpt", deployment()), cache=CacheRule(ttl_s=60, generation=1))})

        assert house.gateway.telemetry.figures.kept_answers.byte_count == 0  # type: ignore[union-attr]
        assert (await house.chat()).headers["x-gateway-cache"] == "miss"

    async def test_a_purge_of_everything_forgets_and_frees(self) -> None:
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT))

        await house.chat()
        swap(house, cache=CacheSettings(enabled=True, generation=1))

        assert house.gateway.telemetry.figures.kept_answers.entry_count == 0  # type: ignore[union-attr]
        assert (await house.chat()).headers["x-gateway-cache"] == "miss"

    async def test_an_unrelated_change_keeps_answers(self) -> None:
        house = caching_house(Reply.json(CHAT))

        await house.chat()
        swap(house, revision=7)

        assert (await house.chat()).headers["x-gateway-cache"] == "hit"


class TestOutages:
    async def test_while_every_target_is_out_kept_answers_are_given(self) -> None:
        house = caching_house(Reply.json(CHAT), circuit=CircuitRules(failures=1, wait_s=0.0))
        await house.chat()
        house.upstream.then(*[Reply.json({"error": {"message": "down"}}, status=500)] * 9)

        other = await house.chat({"seed": 1})
        refused = await house.chat({"seed": 2})
        sent = len(house.upstream.requests)
        kept = await house.chat()

        assert other.status_code == 500
        assert refused.status_code == 503
        assert (kept.status_code, kept.headers["x-gateway-cache"]) == (200, "hit")
        assert len(house.upstream.requests) == sent

    async def test_what_another_alias_answered_is_not_kept_as_this_ones(self) -> None:
        first = replace(alias("gpt", deployment()), cache=CacheRule(60), fallbacks=(Fallback("spare"),))
        spare = alias("spare", deployment("spare", 2))
        down = [Reply.json({"error": {"message": "down"}}, status=500)]
        house = caching_house(*down, Reply.json(CHAT), *down, Reply.json(CHAT), aliases=(first, spare), retries=NONE)

        answers = [await house.chat(), await house.chat()]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.headers["x-gateway-cache"] for answer in answers] == ["miss", "miss"]

    async def test_nor_is_it_where_the_other_alias_leads_to_the_same_deployment(self) -> None:
        first = replace(
            alias("gpt", deployment(), deployment("b", 2)),
            cache=CacheRule(60),
            fallbacks=(Fallback("spare", FallbackCause.BUDGET_EXHAUSTED),),
            budgets=(BudgetRule(1, "day", "model", "gpt", "day", 0, "UTC"),),
        )
        spare = replace(alias("spare", deployment("b", 2)), parameters=Parameters(overrides={"max_tokens": 1}))
        house = caching_house(Reply.json(CHAT), Reply.json(CHAT), aliases=(first, spare))

        answers = [await house.chat(), await house.chat()]

        assert [answer.headers["x-gateway-fallback"] for answer in answers] == ["spare", "spare"]
        assert [answer.headers["x-gateway-cache"] for answer in answers] == ["miss", "miss"]

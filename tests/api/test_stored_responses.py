"""Responses that somebody keeps: their provider, or the gateway. A team goes on from its own, and from no other's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.key_secrets import digest
from llmgateway.pipeline import response_state
from llmgateway.pipeline.errors import LedgerUnavailableError, RequestTooLargeError
from llmgateway.pipeline.protocols import KeptResponse, Owner
from llmgateway.pipeline.response_state import ResponseState
from llmgateway.pipeline.snapshot import ForeignKeys, KeyDigest
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, PEPPER, SECRET, House, alias, deployment, key, snapshot

OPENAI = deployment(provider="acme", model="gpt-4o-mini", adapter=get_adapter("openai"))
RIVAL = deployment("rival", 2, provider="rival", model="gpt-4o-mini", adapter=get_adapter("openai"))
PLAIN = deployment("plain", 3, provider="plain")
BOBS, MATES = "sk-gw-bobbobbobb-0123456789abcdef", "sk-gw-matematema-0123456789abcdef"
BOB = key("bob", id="2", public_id="bobbobbobb", team_id=4, team_name="blue")
MATE = key("mate", id="3", public_id="matematema")
USAGE = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
ANSWER: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-4o-mini",
    "status": "completed",
    "output": [],
    "usage": USAGE,
    "store": True,
}
PATH = "/v1/responses"


class FakeShelf:
    """A shelf of one process."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptResponse] = {}
        self.is_away = False

    async def put(self, kept: KeptResponse) -> None:
        if self.is_away:
            raise LedgerUnavailableError("away")
        self.kept.setdefault(kept.id, kept)

    async def last(self, response_id: str, *, with_content: bool = False) -> KeptResponse | None:
        return self.kept.get(response_id)

    async def conversation(self, response_id: str, *, most_bytes: int) -> Sequence[KeptResponse]:
        found: list[KeptResponse] = []
        while response_id:
            if response_id not in self.kept:
                return ()
            found.insert(0, self.kept[response_id])
            response_id = found[0].previous_id
        if sum(each.size for each in found) > most_bytes:
            raise RequestTooLargeError("too long")
        return found

    async def remove(self, response_id: str) -> None:
        self.kept.pop(response_id, None)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_state, "LOOKS_S", (0.0,))


def house(*replies: Reply | Exception, shelf: FakeShelf | None = None, **changes: Any) -> House:
    named = (alias("gpt", OPENAI), alias("mixed", RIVAL, OPENAI), alias("rival", RIVAL), alias("plain", PLAIN))
    mine = snapshot(*named, deployments=(OPENAI, RIVAL, PLAIN), **changes)
    others = {digest(secret.encode(), PEPPER): KeyDigest(each) for secret, each in ((BOBS, BOB), (MATES, MATE))}
    of = House(ScriptedUpstream(*replies), replace(mine, keys={**mine.keys, **others}))
    of.gateway.responses.shelf = shelf
    return of


async def create(of: House, model: str = "gpt", path: str = PATH, secret: str = SECRET, **fields: Any) -> Any:
    body = {"model": model, "input": "Hi", **fields}
    return await of.post(path, body, authorization=f"Bearer {secret}")


def said(text: str, number: int = 1) -> Reply:
    message = {"role": "assistant", "content": text}
    return Reply.json(
        {**CHAT, "id": f"chatcmpl-{number}", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    )


def as_stream(*events: dict[str, Any]) -> Reply:
    wire = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
    half = len(wire) // 3
    return Reply(200, {"content-type": "text/event-stream"}, (wire[:half], wire[half:]))


# ── kept by their provider ──


async def test_a_team_goes_on_from_its_own_response_at_the_provider_that_keeps_it() -> None:
    of = house(Reply.json(ANSWER), Reply.json({**ANSWER, "id": "resp_2"}))
    await create(of)

    following = await create(of, "mixed", previous_response_id="resp_1", secret=MATES)

    assert following.status_code == 200
    assert of.upstream.bodies[1] == {"model": "gpt-4o-mini", "input": "Hi", "previous_response_id": "resp_1"}
    assert [row["provider"] for row in of.ledger.closed] == ["acme", "acme"]


async def test_the_id_in_a_stream_counts_too() -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {**ANSWER, "id": "resp_s"}}
    done = {"type": "response.completed", "sequence_number": 1, "response": {**ANSWER, "id": "resp_s"}}
    of = house(as_stream(created, done), Reply.json(ANSWER))
    await create(of, stream=True)

    following = await create(of, previous_response_id="resp_s")

    assert following.status_code == 200


@pytest.mark.parametrize("model", ["gpt", "mixed", "plain"])
async def test_another_team_s_response_is_as_unknown_as_one_that_never_was(model: str) -> None:
    of = house(Reply.json(ANSWER), shelf=FakeShelf())
    await create(of)

    foreign = await create(of, model, previous_response_id="resp_1", secret=BOBS)
    unknown = await create(of, model, previous_response_id="resp_0", secret=BOBS)

    assert [foreign.status_code, unknown.status_code] == [404, 404]
    assert foreign.json()["error"]["code"] == unknown.json()["error"]["code"] == "previous_response_not_found"
    assert foreign.json()["error"]["message"].replace("resp_1", "resp_0") == unknown.json()["error"]["message"]
    assert len(of.upstream.requests) == 1


async def test_a_name_that_hides_behind_escapes_is_seen() -> None:
    of = house(Reply.json(ANSWER))
    await create(of)

    body = b'{"model":"gpt","input":"x","previous\\u005fresponse_id":"resp_1"}'
    foreign = await of.post(PATH, body, authorization=f"Bearer {BOBS}")

    assert foreign.status_code == 404


async def test_a_model_that_is_not_at_the_keeper_cannot_go_on() -> None:
    of = house(Reply.json(ANSWER), shelf=FakeShelf())
    await create(of)

    refused = [await create(of, model, previous_response_id="resp_1") for model in ("rival", "plain")]

    assert [each.status_code for each in refused] == [400, 400]
    assert all(each.json()["error"]["param"] == "previous_response_id" for each in refused)
    assert len(of.upstream.requests) == 1


async def test_what_is_not_to_be_stored_is_not_remembered() -> None:
    of = house(Reply.json({**ANSWER, "store": False}), Reply.json({**ANSWER, "id": "resp_2"}))
    await create(of)
    await create(of, store=False)

    answers = [await create(of, previous_response_id=each) for each in ("resp_1", "resp_2")]

    assert [each.status_code for each in answers] == [404, 404]


@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items?limit=2")]
)
async def test_one_response_is_its_team_s_and_costs_nothing_again(method: str, below: str) -> None:
    of = house(Reply.json(ANSWER), *[Reply.json(ANSWER)] * 2)
    await create(of)
    headers = {"authorization": f"Bearer {MATES}"}

    mine = await of.request(method, f"{PATH}/resp_1{below}", b"", headers)
    native = await of.request(method, f"/acme/v1/responses/resp_1{below}", b"", headers)
    foreign = [
        await of.request(method, f"{path}/resp_1{below}", b"", {"authorization": f"Bearer {BOBS}"})
        for path in (PATH, "/acme/v1/responses", "/acme//v1/Responses")
    ]
    unknown = await of.request(method, f"{PATH}/resp_9{below}", b"", headers)

    assert [mine.status_code, native.status_code, unknown.status_code] == [200, 200, 404]
    assert [each.status_code for each in foreign] == [404, 404, 404]
    assert of.upstream.requests[1].url.raw_path.decode() == f"/v1/responses/resp_1{below}"
    assert of.upstream.requests[1].method == method
    assert [row["cost_pico_usd"] for row in of.ledger.closed] == [11 * 2 + 5 * 10, 0, 0]


async def test_under_a_provider_s_prefix_only_what_is_known_to_be_another_team_s_is_refused() -> None:
    of = house(Reply.json(ANSWER), Reply.json({**ANSWER, "id": "resp_2"}))
    await create(of, path="/acme/v1/responses")

    foreign = await create(of, path="/acme/v1/responses", previous_response_id="resp_1", secret=BOBS)
    older = await create(of, path="/acme/v1/responses", previous_response_id="resp_from_before", secret=BOBS)

    assert [foreign.status_code, older.status_code] == [404, 200]


async def test_a_conversation_of_another_is_not_reached() -> None:
    of = house(Reply.json(ANSWER))
    await of.gateway.responses.book.remember(["conv_1"], Owner("acme", 3, "1"))

    foreign = await create(of, conversation={"id": "conv_1"}, secret=BOBS)
    mine = await create(of, conversation="conv_1")

    assert [foreign.status_code, mine.status_code] == [404, 200]
    assert foreign.json()["error"]["param"] == "conversation"


async def test_callers_own_keys_keep_their_responses_apart() -> None:
    of = house(Reply.json(ANSWER), Reply.json(ANSWER), foreign=ForeignKeys())
    path, carols, dans = "/acme/v1/responses", "sk-own-key-of-carol-0123456789", "sk-own-key-of-dan-0123456789"
    await create(of, path=path, secret=carols)

    mine = await create(of, path=path, previous_response_id="resp_1", secret=carols)
    other = await create(of, path=path, previous_response_id="resp_1", secret=dans)

    assert [mine.status_code, other.status_code] == [200, 404]


# ── kept by the gateway ──


async def test_without_a_shelf_the_caller_is_told_what_to_do() -> None:
    of = house(said("Hello"))

    first = await create(of, "plain")
    following = await create(of, "plain", previous_response_id=first.json()["id"])

    assert first.json()["store"] is False
    assert following.status_code == 400
    assert following.json()["error"]["param"] == "previous_response_id"
    assert "RESPONSES_RETENTION_HOURS" in following.json()["error"]["message"]


async def test_a_conversation_goes_on_with_any_provider() -> None:
    of = house(said("One"), said("Two", 2), said("Three", 3), shelf=FakeShelf())
    first = (await create(of, "plain", input="a", instructions="Be brief.")).json()
    second = (
        await create(of, "plain", input=[{"role": "user", "content": "b"}], previous_response_id=first["id"])
    ).json()

    third = (await create(of, "plain", input="c", previous_response_id=second["id"], secret=MATES)).json()

    assert of.upstream.bodies[2]["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "One"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "c"},
    ]
    assert (first["store"], first["previous_response_id"]) == (True, None)
    assert third["previous_response_id"] == second["id"]
    assert len({first["id"], second["id"], third["id"]}) == 3


async def test_tools_and_their_results_are_part_of_it() -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    asked = {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    of = house(Reply.json(asked), said("Sunny"), shelf=FakeShelf())
    first = (await create(of, "plain", tools=[tool])).json()

    result = [{"type": "function_call_output", "call_id": "call_1", "output": "21"}]
    await create(of, "plain", input=result, tools=[tool], previous_response_id=first["id"])

    assert [each["role"] for each in of.upstream.bodies[1]["messages"]] == ["user", "assistant", "tool"]
    assert of.upstream.bodies[1]["messages"][1]["tool_calls"][0]["id"] == "call_1"


async def test_a_stream_is_kept_when_it_is_complete() -> None:
    pieces = [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "One"}}]},
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"id": "c", "model": "m", "choices": [], "usage": CHAT["usage"]},
    ]
    wire = b"".join(b"data: %b\n\n" % json.dumps(piece).encode() for piece in pieces) + b"data: [DONE]\n\n"
    of = house(Reply(200, {"content-type": "text/event-stream"}, (wire,)), said("Two"), shelf=FakeShelf())
    streamed = await create(of, "plain", input="a", stream=True)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    final = events[-1]["response"]

    following = await create(of, "plain", input="b", previous_response_id=final["id"])
    shown = await of.get(f"{PATH}/{final['id']}")

    assert following.status_code == 200
    assert [each["content"] for each in of.upstream.bodies[1]["messages"]] == ["a", "One", "b"]
    assert shown.json() == final


async def test_a_kept_conversation_goes_on_at_a_provider_that_speaks_responses_itself() -> None:
    of = house(said("One"), Reply.json(ANSWER), shelf=FakeShelf())
    first = (await create(of, "plain", input="a")).json()

    await create(of, "gpt", input="b", previous_response_id=first["id"])

    sent = of.upstream.bodies[1]
    assert "previous_response_id" not in sent
    assert [item["role"] for item in sent["input"]] == ["user", "assistant", "user"]
    assert all("id" not in item and "status" not in item for item in sent["input"])


async def test_the_own_response_can_be_looked_at_and_removed() -> None:
    of = house(said("One"), said("Two"), shelf=FakeShelf())
    first = (await create(of, "plain", input="a")).json()
    second = (await create(of, "plain", input="b", previous_response_id=first["id"])).json()
    path = f"{PATH}/{second['id']}"

    shown, items = await of.get(path), (await of.get(f"{path}/input_items?order=asc")).json()
    page = (await of.get(f"{path}/input_items?limit=1&after={items['data'][2]['id']}")).json()
    cancelled = await of.post(f"{path}/cancel", b"")
    wrong = [await of.get(f"{path}/input_items?{query}") for query in ("limit=0", "limit=x", "after=nothing")]
    removed = await of.request("DELETE", path, b"", {"authorization": f"Bearer {MATES}"})
    gone = await of.get(path)

    assert shown.json() == second
    assert [item["content"][0]["text"] for item in items["data"]] == ["a", "One", "b"]
    assert (items["object"], items["has_more"]) == ("list", False)
    assert (items["first_id"], items["last_id"]) == (items["data"][0]["id"], items["data"][2]["id"])
    assert (page["data"], page["has_more"]) == ([items["data"][1]], True)
    assert cancelled.status_code == 400
    assert [each.status_code for each in wrong] == [400, 400, 400]
    assert removed.json() == {"id": second["id"], "object": "response", "deleted": True}
    assert gone.status_code == 404
    assert len(of.ledger.closed) == 2


@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
async def test_another_team_sees_nothing_of_it(method: str, below: str) -> None:
    shelf = FakeShelf()
    of = house(said("One"), shelf=shelf)
    first = (await create(of, "plain")).json()

    foreign = await of.request(method, f"{PATH}/{first['id']}{below}", b"", {"authorization": f"Bearer {BOBS}"})
    nobody = await of.request(method, f"{PATH}/{first['id']}{below}", b"", {})

    assert [foreign.status_code, nobody.status_code] == [404, 401]
    assert first["id"] in shelf.kept


async def test_a_conversation_of_which_a_part_is_gone_cannot_go_on() -> None:
    of = house(said("One"), said("Two"), shelf=FakeShelf())
    first = (await create(of, "plain")).json()
    second = (await create(of, "plain", previous_response_id=first["id"])).json()
    await of.request("DELETE", f"{PATH}/{first['id']}", b"", {"authorization": f"Bearer {SECRET}"})

    refused = await create(of, "plain", previous_response_id=second["id"])

    assert refused.status_code == 404


async def test_a_conversation_may_be_no_larger_than_a_body() -> None:
    of = house(said("One"), shelf=FakeShelf(), request_body_limit=3000)
    first = (await create(of, "plain", input="a" * 1900)).json()

    refused = await create(of, "plain", input="b" * 1900, previous_response_id=first["id"])

    assert refused.status_code == 413
    assert len(of.upstream.requests) == 1


async def test_what_was_said_before_is_admitted_with_the_request() -> None:
    of = house(said("One"), said("Two"), shelf=FakeShelf())
    first = (await create(of, "plain", input="word " * 400)).json()

    await create(of, "plain", input="b", previous_response_id=first["id"])

    assert of.ledger.closed[1]["input_estimate"] > 400


async def test_a_database_that_is_away_costs_the_answer_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shelf = FakeShelf()
    shelf.is_away = True
    of = house(said("One"), shelf=shelf)

    answer = await create(of, "plain")
    await of.gateway.responses.stop()

    assert answer.status_code == 200
    assert "could not be kept" in caplog.text


async def test_what_is_larger_than_may_be_kept_is_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_state, "MOST_KEPT_BYTES", 100)
    shelf = FakeShelf()
    of = house(said("One"), shelf=shelf)

    answer = await create(of, "plain")
    await of.gateway.responses.stop()

    assert (answer.status_code, shelf.kept) == (200, {})


@pytest.mark.parametrize(
    "fields", [{"previous_response_id": 7}, {"previous_response_id": "r" * 201}, {"store": "no"}, {"conversation": [1]}]
)
async def test_wrong_references_are_named(fields: dict[str, Any]) -> None:
    of = house()

    refused = await create(of, **fields)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(fields)))


async def test_a_response_of_another_worker_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_state, "LOOKS_S", (0.0, 0.01, 0.01))
    state = ResponseState(house().gateway.responses.book)
    looking = asyncio.ensure_future(state.find("resp_1"))
    await asyncio.sleep(0)

    await state.book.remember(["resp_1"], Owner("acme", 3, "1"))

    found = await looking
    assert found is not None
    assert found.owner.provider == "acme"

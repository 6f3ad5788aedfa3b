"""Objects that providers keep in forms of their own: reached by the team that made them, and by no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmgateway.api.native_kept import family_of
from llmgateway.key_secrets import digest
from llmgateway.pipeline.snapshot import ForeignKeys, KeyDigest
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PEPPER, SECRET, House, alias, deployment, key, snapshot

GEMINI = deployment(provider="google", adapter=get_adapter("gemini"), base_url="http://main.test/v1beta")
CLAUDE = deployment("claude", 2, provider="claude", adapter=get_adapter("anthropic"))
OPENAI = deployment("open", 3, provider="acme", adapter=get_adapter("openai"))
BOBS = "sk-gw-bobbobbobb-0123456789abcdef"
BOB = key("bob", id="2", public_id="bobbobbobb", team_id=4, team_name="blue")
BATCH = {"id": "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d", "type": "message_batch"}
CACHED = {"name": "cachedContents/mine", "model": "models/gemini"}


def house(*replies: Reply) -> House:
    made = snapshot(alias("flash", GEMINI), alias("claude", CLAUDE), deployments=(GEMINI, CLAUDE, OPENAI))
    bobs = {digest(BOBS.encode(), PEPPER): KeyDigest(BOB)}
    return House(ScriptedUpstream(*replies), replace(made, keys={**made.keys, **bobs}, foreign=ForeignKeys()))


async def call(of: House, method: str, path: str, secret: str = SECRET, body: bytes = b"{}") -> Any:
    return await of.request(method, path, body if method == "POST" else b"", {"authorization": f"Bearer {secret}"})


@pytest.mark.parametrize(
    ("root", "item", "made"),
    [
        ("/google/v1beta/cachedContents", "/google/v1beta/cachedContents/mine", CACHED),
        ("/google/v1beta/cachedContents", "/google//V1BETA/CachedContents/mine/", CACHED),
        ("/google/upload/v1beta/files", "/google/v1beta/files/abc:download", {"file": {"name": "files/abc"}}),
        ("/claude/v1/messages/batches", f"/claude/v1/messages/batches/{BATCH['id']}/results", BATCH),
        (
            "/acme/v1/conversations",
            "/acme/v1/conversations/conv_0123456789abcdefg/items",
            {"id": "conv_0123456789abcdefg"},
        ),
    ],
)
async def test_another_team_does_not_reach_what_one_has_made(root: str, item: str, made: dict[str, Any]) -> None:
    of = house(Reply.json(made), Reply.json({"ok": 1}), Reply.json({"ok": 2}))
    await call(of, "POST", root)

    foreign = [await call(of, method, item, BOBS) for method in ("GET", "DELETE", "POST")]
    mine = await call(of, "GET", item)

    assert [each.status_code for each in foreign] == [404, 404, 404]
    assert mine.json() == {"ok": 1}
    assert len(of.upstream.requests) == 2


async def test_lists_are_cut() -> None:
    listed = {"cachedContents": [CACHED, {"name": "cachedContents/older"}], "nextPageToken": "x"}
    of = house(Reply.json(CACHED), *[Reply.json(listed)] * 2)
    await call(of, "POST", "/google/v1beta/cachedContents")

    mine = (await call(of, "GET", "/google/v1beta/cachedContents")).json()
    bobs = (await call(of, "GET", "/google/v1beta/cachedContents", BOBS)).json()

    assert mine == listed
    assert bobs == {**listed, "cachedContents": listed["cachedContents"][1:]}


async def test_the_first_who_makes_a_name_has_it() -> None:
    of = house(*[Reply.json(CACHED)] * 3)
    for secret in (SECRET, BOBS):
        await call(of, "POST", "/google/v1beta/cachedContents", secret)

    assert (await call(of, "GET", "/google/v1beta/cachedContents/mine", BOBS)).status_code == 404


async def test_stored_completions_are_nobody_s() -> None:
    of = house(Reply.json({"data": []}))

    refused = [await call(of, "GET", f"/acme/v1/chat/completions{end}") for end in ("", "/chatcmpl-1")]
    own = await call(of, "GET", "/acme/v1/chat/completions", "sk-own-key-of-carol-0123456789")

    assert [each.status_code for each in refused] == [404, 404]
    assert own.status_code == 200


async def test_a_conversation_that_was_made_here_can_be_gone_on_with() -> None:
    response = {"id": "resp_1", "output": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    of = house(Reply.json({"id": "conv_0123456789abcdefg"}), Reply.json(response))
    of.gateway.snapshot = replace(of.gateway.snapshot, aliases={"gpt": alias("gpt", OPENAI)})
    await call(of, "POST", "/acme/v1/conversations")
    body = {"model": "gpt", "input": "x", "conversation": "conv_0123456789abcdefg"}

    mine = await of.post("/v1/responses", body)
    foreign = await of.post("/v1/responses", body, authorization=f"Bearer {BOBS}")

    assert [mine.status_code, foreign.status_code] == [200, 404]


@pytest.mark.parametrize("answer", [b"no json", b"[1]", b'{"data": [1, "x"], "name": 7}', b'{"id": ""}'])
async def test_what_has_no_ids_passes_as_it_is(answer: bytes) -> None:
    reply = Reply(200, {"content-type": "application/json"}, (answer,))
    of = house(reply, reply)

    made = await call(of, "POST", "/claude/v1/files")
    listed = await call(of, "GET", "/claude/v1/files")

    assert made.content == listed.content == answer


def test_a_family_is_found_wherever_it_stands() -> None:
    found = family_of(frozenset({"messages/batches"}), "/v1/projects/p/Messages/batches/b:cancel/results")

    assert found is not None
    assert (found.name, found.object_id) == ("messages/batches", "b")
    assert family_of(frozenset({"messages/batches"}), "/v1/messages") is None

"""Bodies that name what a provider keeps: a key uses what its team has made, and nothing of another team's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.api import kept_references
from llmgateway.key_secrets import digest
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.snapshot import ForeignKeys, KeyDigest
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.references import ids_in, paths_in
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PEPPER, SECRET, House, alias, deployment, key, snapshot

OPENAI = deployment("open", 1, provider="acme", adapter=get_adapter("openai"))
CLAUDE = deployment("claude", 2, provider="claude", adapter=get_adapter("anthropic"))
GEMINI = deployment("flash", 3, provider="google", adapter=get_adapter("gemini"), base_url="http://g.test/v1beta")
BOBS = "sk-gw-bobbobbobb-0123456789abcdef"
BOB = key("bob", id="2", public_id="bobbobbobb", team_id=4, team_name="blue")
ALICE = Owner("acme", 3, "1")
FILE, UUID = "file-abc123", "0b7a4bc1-35f0-4f9a-8f04-1c8f2a3d4e5f"
CLAUDE_FILE, CONTAINER = "file_011CNha8iCJcU1wXNR6q4V8w", "container_011CPR5CNjB747bTd36fQLFk"
STORE, CODE = "vs_0123456789abcdef01", "cntr_0123456789abcdef01"
ANSWER: dict[str, Any] = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def chat(part: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": [part]}]}


def asked(part: Any) -> dict[str, Any]:
    return {"model": "gpt", "input": [{"role": "user", "content": [part]}]}


def said(part: Any, **more: Any) -> dict[str, Any]:
    return {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": [part]}], **more}


def contents(part: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [part]}], **more}


GENERATE = "/v1beta/models/flash:generateContent"
AT_GOOGLE = "https://generativelanguage.googleapis.com/v1beta/files/mine"
BODIES: dict[str, tuple[str, Any]] = {
    "chat file": ("/v1/chat/completions", chat({"type": "file", "file": {"file_id": FILE}})),
    "responses file": ("/v1/responses", asked({"type": "input_file", "file_id": FILE})),
    "responses image": ("/v1/responses", asked({"type": "input_image", "file_id": FILE})),
    "vector store": (
        "/v1/responses",
        {"model": "gpt", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": [STORE]}]},
    ),
    "container": (
        "/v1/responses",
        {"model": "gpt", "input": "x", "tools": [{"type": "code_interpreter", "container": CODE}]},
    ),
    "messages file": ("/v1/messages", said({"type": "document", "source": {"type": "file", "file_id": CLAUDE_FILE}})),
    "messages container": ("/v1/messages", said({"type": "text", "text": "x"}, container=CONTAINER)),
    "counted": (
        "/v1/messages/count_tokens",
        said({"type": "document", "source": {"type": "file", "file_id": CLAUDE_FILE}}),
    ),
    "batch of messages": (
        "/claude/v1/messages/batches",
        {"requests": [{"params": said({"type": "document", "source": {"type": "file", "file_id": CLAUDE_FILE}})}]},
    ),
    "cached content": (GENERATE, contents({"text": "x"}, cachedContent="cachedContents/mine")),
    "cached content, in snakes": (GENERATE, contents({"text": "x"}, cached_content="cachedContents/mine")),
    "file at google": (GENERATE, contents({"fileData": {"fileUri": AT_GOOGLE}})),
    "native": (
        "/google/v1beta/models/gpt-upstream:generateContent",
        contents({"text": "x"}, cachedContent="cachedContents/mine"),
    ),
    "batch": ("/acme/v1/batches", {"input_file_id": FILE, "endpoint": "/v1/responses"}),
    "uuid": ("/acme/v1/novelty", {"document": UUID}),
}


def house(*replies: Reply) -> House:
    deployments = (OPENAI, CLAUDE, GEMINI)
    made = snapshot(*(alias(name, each) for name, each in zip(("gpt", "claude", "flash"), deployments, strict=True)))
    keys = {**made.keys, digest(BOBS.encode(), PEPPER): KeyDigest(BOB)}
    return House(ScriptedUpstream(*replies), replace(made, keys=keys, deployments=deployments, foreign=ForeignKeys()))


async def kept(of: House, owner: Owner = ALICE) -> None:
    ids = [FILE, UUID, CLAUDE_FILE, CONTAINER, STORE, CODE, "google:cachedContents/mine", "google:files/mine"]
    await of.gateway.responses.book.remember(ids, owner)


async def send(of: House, path: str, body: Any, secret: str = SECRET) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    return await of.request("POST", path, content, headers)


@pytest.mark.parametrize("case", BODIES)
async def test_another_team_cannot_use_it_by_naming_it(case: str) -> None:
    path, body = BODIES[case]
    of = house(Reply.json(ANSWER))
    await kept(of)

    refused = await send(of, path, body, BOBS)
    mine = await send(of, path, body)

    assert refused.status_code == 404
    assert "has made through this gateway" in refused.text
    assert mine.status_code == 200
    assert len(of.upstream.requests) == 1


@pytest.mark.parametrize(
    "written",
    [
        rb'{"model":"gpt","messages":[{"role":"user","content":[{"type":"file","file":{"file\u005fid":"file-abc123"}}]}]}',
        rb'{"model":"gpt","messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file\u002dabc123"}}]}]}',
        b'{"model":"gpt","messages":[{"role":"user","content":[{"file":{"file_id":"file-abc123","file_id":"file-b"}}]}]}',
    ],
    ids=["name", "value", "twice"],
)
async def test_no_form_of_json_hides_it(written: bytes) -> None:
    of = house()
    await kept(of)

    refused = await send(of, "/v1/chat/completions", written, BOBS)

    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "object_not_found")


async def test_a_file_of_requests_is_looked_through_before_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_references, "_LONG", 10)
    of = house()
    await kept(of)
    line = json.dumps({"body": asked({"type": "input_file", "file_id": FILE})})
    form = f'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n{line}\r\n--b--\r\n'.encode()
    headers = {"authorization": f"Bearer {BOBS}", "content-type": "multipart/form-data; boundary=b"}

    refused = await of.request("POST", "/v1/files", form, headers)

    assert refused.status_code == 404


async def test_what_was_never_seen_here_is_the_provider_s_to_judge() -> None:
    of = house(Reply.json(ANSWER))

    passed = await send(of, *BODIES["chat file"], BOBS)

    assert passed.status_code == 200


async def test_callers_with_keys_of_their_own_are_their_provider_s_to_judge() -> None:
    of = house(Reply.json(ANSWER))
    await kept(of)

    passed = await send(of, *BODIES["native"], "own-key-of-carol-0123456789")

    assert passed.status_code == 200


@pytest.mark.parametrize("name", ["openai.chat", "openai.responses", "anthropic.messages", "gemini.generate_content"])
def test_an_ordinary_body_is_not_looked_through(name: str) -> None:
    tools = b'"tools":[{"type":"function","function":{"name":"f"}}],"tool_call_id":"call_1","id":"x"'

    assert not get_dialect(name).may_name_kept(b'{"model":"gpt","messages":[{"role":"user","content":"Hi"}],' + tools)


def test_ids_stand_in_whole_strings() -> None:
    body = (
        b'{"a":"say \\"file-abc123\\" twice","b":"file-abc123","c":["cachedContents/x",1],"d":"msg_0123456789abcdef"}'
    )

    assert list(ids_in(body)) == ["file-abc123", "msg_0123456789abcdef"]
    assert list(paths_in(body)) == ["cachedContents/x"]


RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-upstream",
    "status": "completed",
    "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}],
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


def stream(cut: int) -> Reply:
    """The same answer as events, in pieces of `cut` bytes; 0: in one."""
    begun = {"type": "response.created", "response": {**RESPONSE, "output": [], "status": "in_progress"}}
    spoken = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "x"}
    ended = {"type": "response.completed", "response": RESPONSE}
    whole = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in (begun, spoken, ended))
    pieces = tuple(whole[at : at + cut] for at in range(0, len(whole), cut)) if cut else (whole,)
    return Reply(200, {"content-type": "text/event-stream"}, pieces)


REPLIES = {"whole": Reply.json(RESPONSE), "one piece": stream(0), "bytes": stream(1), "pieces": stream(97)}


@pytest.mark.parametrize(
    "reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}], ids=["named", "bare"]
)
@pytest.mark.parametrize("reply", REPLIES)
async def test_items_of_an_answer_are_its_team_s(reply: str, reference: dict[str, str]) -> None:
    of = house(REPLIES[reply], Reply.json({**RESPONSE, "id": "resp_2"}))
    await send(of, "/v1/responses", {"model": "gpt", "input": "x", "stream": reply != "whole"})

    foreign = await send(of, "/v1/responses", {"model": "gpt", "input": [reference]}, BOBS)
    mine = await send(of, "/v1/responses", {"model": "gpt", "input": [reference]})

    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "item_not_found")
    assert mine.status_code == 200


async def test_items_that_nobody_knows_pass_below_the_provider_s_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.pipeline.response_state.LOOKS_S", (0.0,))
    of = house(Reply.json(RESPONSE))
    body = {"model": "gpt", "input": [{"type": "item_reference", "id": "msg_9"}]}

    refused = await send(of, "/v1/responses", body)
    passed = await send(of, "/acme/v1/responses", body)

    assert [refused.status_code, passed.status_code] == [404, 200]


async def test_items_of_what_is_not_to_be_kept_are_not_noted() -> None:
    of = house(Reply.json({**RESPONSE, "store": False}))

    await send(of, "/v1/responses", {"model": "gpt", "input": "x"})
    await of.gateway.responses.stop()

    assert not await of.gateway.responses.book.owners(["resp_1", "msg_1"])


async def test_an_item_with_its_content_is_no_reference() -> None:
    of = house(Reply.json(RESPONSE))
    items = [{"id": "msg_9", "role": "assistant", "content": "x"}, {"type": "reasoning", "id": "rs_9", "summary": []}]

    assert (await send(of, "/v1/responses", {"model": "gpt", "input": items})).status_code == 200

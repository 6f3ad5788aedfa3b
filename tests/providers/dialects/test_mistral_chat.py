"""Mistral's chats and embeddings: Mistral takes what is written to it, and its own SDK understands what is answered."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    Conversation,
    File,
    Reasoning,
    Refusal,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.embedding import EmbeddingReply
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Choice, Reply, events_of
from providers.adapters.errors import MalformedBodyError
from providers.adapters.registry import get_adapter
from providers.adapters.types import Usage
from tests.providers.dialects.strategies import Says, conversations, folded, plain, read_stream, replies, written_stream

MISTRAL = get_dialect("mistral.chat")
EMBEDDINGS: Any = get_dialect("mistral.embeddings")
OPENAI = get_dialect("openai.chat")
VECTORS: Any = get_dialect("openai.embeddings")
ADAPTER = get_adapter("mistral")
SAYS = Says(
    developer=False, names=False, audio=False, result_images=False, result_errors=False, cache=False,
    tool_cache=False, custom_tools=False, allowed_tools=False, budget=False, refusals=False, logit_bias=False,
    verbosity=False, user=False,
)  # fmt: skip
LIMITS = Limits("mistral-small", extensions=ADAPTER.extensions, output_cap_fields=ADAPTER.output_cap_fields(MISTRAL))
ASKED = Conversation("m", (), stream=True, include_usage=True)
USER = Turn("user", (Text("Hi"),))


def body_of(conversation: Conversation) -> Any:
    return json.loads(MISTRAL.write_request(conversation, LIMITS).body)


def from_openai(body: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    asked = OPENAI.read_request(json.dumps({"model": "m", "messages": [], **body}).encode())
    written = MISTRAL.write_request(asked, LIMITS)
    return json.loads(written.body), written.dropped


@settings(max_examples=40, deadline=None)
@given(replies(SAYS, prefix="cmpl-"))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(MISTRAL.read_reply(MISTRAL.write_reply(reply, ASKED))) == reply


@settings(max_examples=40, deadline=None)
@given(replies(SAYS, prefix="cmpl-"))
def test_a_stream_brings_the_same_answer_and_each_call_whole(reply: Reply) -> None:
    stream = written_stream(MISTRAL, events_of(reply), ASKED)

    assert plain(folded(read_stream(MISTRAL, stream))) == reply
    for event in stream.split(b"\n\n"):
        choices = json.loads(event[6:])["choices"] if event.startswith(b"data: {") else None
        assert choices != []
        for choice in choices or ():
            for call in choice["delta"].get("tool_calls", ()):
                assert call["id"]
                assert json.loads(call["function"]["arguments"]) is not None
                assert call["function"]["name"]


@settings(max_examples=40, deadline=None)
@given(conversations(SAYS, "mistral.chat"))
def test_nothing_is_written_that_it_refuses(conversation: Conversation) -> None:
    written = MISTRAL.write_request(conversation, LIMITS)

    body = json.loads(written.body)
    assert written.dropped == ()
    assert not {"seed", "stream_options", "user", "max_completion_tokens", "logit_bias", "store"} & body.keys()
    for message in body["messages"]:
        assert message.keys() <= {"role", "content", "tool_calls", "tool_call_id", "prefix", "name"}


def test_openai_s_words_become_mistral_s() -> None:
    body, dropped = from_openai(
        {
            "messages": [{"role": "user", "content": "Hi", "name": "ana"}],
            "seed": 7,
            "max_completion_tokens": 50,
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "ana",
            "store": True,
            "logit_bias": {"5": 1},
            "safe_prompt": True,
            "never_heard_of": 1,
        }
    )

    assert body == {
        "model": "mistral-small",
        "messages": [{"role": "user", "content": "Hi"}],
        "random_seed": 7,
        "max_tokens": 50,
        "stream": True,
        "safe_prompt": True,
    }
    assert dropped == ("logit_bias", "never_heard_of")


def test_ids_of_calls_become_such_as_it_takes_and_results_still_find_them() -> None:
    asked = Conversation(
        "m",
        (
            USER,
            Turn("assistant", (ToolCall("toolu_01A09q90qw90lq917835lq9", "f", "{}"), ToolCall("D681PevKs", "f", "{}"))),
            Turn("user", (ToolResult("toolu_01A09q90qw90lq917835lq9"), ToolResult("D681PevKs"))),
        ),
        tools=(Tool("f"),),
    )

    _, said, one, two = body_of(asked)["messages"]

    ids = [call["id"] for call in said["tool_calls"]]
    assert [one["tool_call_id"], two["tool_call_id"]] == ids
    assert len(ids[0]) == 9
    assert ids[0].isalnum()
    assert ids[1] == "D681PevKs"


def test_thoughts_files_sound_and_refusals_have_its_form() -> None:
    pdf = File(Source(data="cGRm", media_type="application/pdf"), name="a.pdf")
    sound = Audio(Source(data="d2F2", media_type="audio/wav"))
    asked = Conversation(
        "m", (Turn("user", (pdf, sound)), Turn("assistant", (Reasoning("hm"), Text("Yes"))), USER,
              Turn("assistant", (Text("a"), Refusal("No")))),
    )  # fmt: skip

    messages = body_of(asked)["messages"]

    assert messages[0]["content"] == [
        {"type": "document_url", "document_url": "data:application/pdf;base64,cGRm", "document_name": "a.pdf"},
        {"type": "input_audio", "input_audio": "d2F2"},
    ]
    assert messages[1]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "Yes"},
    ]
    assert messages[3]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "No"}]


def test_its_own_words_reach_others() -> None:
    asked = MISTRAL.read_request(
        json.dumps(
            {
                "model": "m",
                "random_seed": 7,
                "safe_prompt": True,
                "tool_choice": "any",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                "messages": [
                    {"role": "user", "content": [
                        {"type": "document_url", "document_url": "https://x.test/a.pdf", "document_name": "a.pdf"},
                        {"type": "file", "file_id": "0b7a"},
                        {"type": "image_url", "image_url": "https://x.test/a.png"},
                        {"type": "input_audio", "input_audio": "d2F2"},
                    ]},
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                        {"type": "text", "text": "Yes"},
                    ], "prefix": False},
                ],
            }
        ).encode()
    )  # fmt: skip

    written = OPENAI.write_request(msgspec.structs.replace(asked, turns=(USER,)), Limits("gpt"))

    assert asked.turns[0].blocks[:2] == (
        File(Source(url="https://x.test/a.pdf"), "a.pdf"), File(Source(file_id="0b7a")),
    )  # fmt: skip
    assert asked.turns[1].blocks == (Reasoning("hm"), Text("Yes"))
    assert (json.loads(written.body)["seed"], json.loads(written.body)["tool_choice"]) == (7, "required")
    assert written.dropped == ("safe_prompt",)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"model": "m", "messages": "x"}'])
@pytest.mark.parametrize("dialect", [MISTRAL, EMBEDDINGS], ids=["chat", "embeddings"])
def test_what_is_no_request_is_refused(body: bytes, dialect: Any) -> None:
    with pytest.raises(MalformedBodyError):
        dialect.read_request(body)


def test_thoughts_come_as_parts() -> None:
    reply = Reply("cmpl-1", "m", (Choice((Reasoning("hm"), Text("Yes")), "stop"),), Usage(input=1, output=2))

    message = json.loads(MISTRAL.write_reply(reply, ASKED))["choices"][0]["message"]

    assert message["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "Yes"},
    ]


def test_vectors_have_an_id_and_sizes_its_name() -> None:
    asked = EMBEDDINGS.read_request(b'{"model": "m", "input": ["x"], "output_dimension": 256, "output_dtype": "float"}')
    answer = json.loads(EMBEDDINGS.write_reply(EmbeddingReply("m", ([0.5],), Usage(input=3)), asked))

    there = json.loads(EMBEDDINGS.write_request(asked, LIMITS).body)
    elsewhere = json.loads(VECTORS.write_request(asked, LIMITS).body)

    assert answer["id"]
    assert answer["data"][0]["embedding"] == [0.5]
    assert (there["output_dimension"], elsewhere["dimensions"]) == (256, 256)
    with pytest.raises(MalformedBodyError, match="float alone"):
        EMBEDDINGS.read_request(b'{"model": "m", "input": "x", "output_dtype": "int8"}')


def test_its_paths_are_understood() -> None:
    paths = ("/v1/chat/completions", "/v1/embeddings", "/v1/fim/completions", "/v1/moderations", "/v1/ocr")

    understood = [ADAPTER.native_call(path) for path in paths]

    assert [call and call.dialect for call in understood] == [
        "mistral.chat", "mistral.embeddings", "mistral.fim", "openai.moderations", "mistral.ocr",
    ]  # fmt: skip

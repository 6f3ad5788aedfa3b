"""The fake provider in Gemini's dialect: it answers, streams and refuses as the real one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.gemini_generate_content import GeminiGenerateContent
from providers.fake_server.contents import SIGNATURE, THOUGHT, Contents, error_object, fault, vectors
from providers.fake_server.scripts import Script
from tests.providers.dialects.strategies import folded

GEMINI = GeminiGenerateContent()
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
TOOLS = [
    {
        "functionDeclarations": [
            {"name": "f", "parameters": {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}}
        ]
    }
]
CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}


def answer(model: str = "gemini-3-fake", script: Script | None = None, **more: Any) -> Contents:
    return Contents({**HELLO, **more}, script or Script(text="Hello to you"), model=model, number=1, cached=False)


def test_a_stream_says_what_the_whole_answer_says() -> None:
    config = {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}, "candidateCount": 2}
    made = answer(generationConfig=config)
    stream = b"".join(b"data: %b\r\n\r\n" % json.dumps(event).encode() for event in made.events())

    whole = GEMINI.read_reply(json.dumps(made.whole()).encode())
    reader = GEMINI.stream_reader()
    streamed = folded([*reader.feed(stream), *reader.finish()])

    assert [block.text for block in streamed.choices[1].blocks] == [THOUGHT, "Hello to you"]  # type: ignore[union-attr]
    assert streamed.choices == whole.choices
    assert reader.usage_raw == made.usage()
    assert whole.usage is not None
    assert (whole.usage.output, whole.usage.reasoning, len(whole.choices)) == (6, 16, 2)


def test_a_cap_ends_the_answer() -> None:
    made = answer(generationConfig={"maxOutputTokens": 2}).whole()

    assert made["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert made["usageMetadata"]["candidatesTokenCount"] == 2


@pytest.mark.parametrize(("model", "signed"), [("gemini-3-fake", True), ("gemini-2.5-fake", False)])
def test_a_tool_that_is_demanded_is_called(model: str, signed: bool) -> None:
    calling = {"functionCallingConfig": {"mode": "ANY"}}

    (part,) = answer(model, Script(), tools=TOOLS, toolConfig=calling).whole()["candidates"][0]["content"]["parts"]

    assert part["functionCall"] == {"name": "f", "args": {"n": 1}}
    assert (part.get("thoughtSignature") == SIGNATURE) is signed


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ([], "contents is not specified"),
        ([{"role": "assistant", "parts": [{"text": "a"}]}], "valid role"),
        ([{"role": "user", "parts": []}], "at least one parts field"),
        ([*HELLO["contents"], CALL], "number of function response parts"),
        ([*HELLO["contents"], CALL, RESULT], "missing a thought_signature"),
    ],
)
def test_it_refuses_what_the_real_one_refuses(contents: list[Any], says: str) -> None:
    assert says in fault({"contents": contents}, "gemini-3-fake")
    assert fault(HELLO, "gemini-3-fake") == ""
    assert fault({"contents": [*HELLO["contents"], CALL, RESULT]}, "gemini-2.5-fake") == ""


def test_errors_have_their_names() -> None:
    assert error_object(429)["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert error_object(418)["error"]["status"] == "INTERNAL"


def test_vectors_are_as_many_as_the_requests() -> None:
    request = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3}

    assert len(vectors(request)["embedding"]["values"]) == 3
    assert len(vectors({"requests": [request, request]})["embeddings"]) == 2

"""Embeddings in OpenAI's and in Gemini's words, and between them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.embedding import EmbeddingReply, EmbeddingRequest
from providers.adapters.dialects.gemini_embed_content import GeminiBatchEmbedContents, GeminiEmbedContent
from providers.adapters.dialects.openai_embeddings import OpenAIEmbeddings
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError
from providers.adapters.types import Usage

OPENAI, ONE, SEVERAL = OpenAIEmbeddings(), GeminiEmbedContent(), GeminiBatchEmbedContents()
LIMITS = Limits("embedder")


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("Hi", ("Hi",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_openais_inputs_are_texts_or_tokens(given: Any, inputs: tuple[Any, ...]) -> None:
    body = encoded({"model": "m", "input": given, "dimensions": 3, "encoding_format": "base64", "user": "u"})

    assert OPENAI.read_request(body) == EmbeddingRequest(
        "m", inputs, dimensions=3, encoding="base64", user="u", dialect=OPENAI.name
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m", "input": 7}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": [True]}, "input"),
        ({"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "m", "input": "a", "dimensions": "3"}, "dimensions"),
    ],
)
def test_openais_fields_are_checked(body: Any, param: str) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        OPENAI.read_request(encoded(body))

    assert refusal.value.param == param


def test_a_request_of_openais_becomes_one_of_geminis() -> None:
    asked = OPENAI.read_request(encoded({"model": "m", "input": ["a", "b"], "dimensions": 3, "user": "u"}))

    written = SEVERAL.write_request(asked, LIMITS)

    assert written.dropped == ("user",)
    assert json.loads(written.body) == {
        "requests": [
            {"model": "models/embedder", "content": {"parts": [{"text": text}]}, "outputDimensionality": 3}
            for text in ("a", "b")
        ]
    }


def test_tokens_cannot_be_said_to_gemini() -> None:
    with pytest.raises(InexpressibleError) as refusal:
        SEVERAL.write_request(EmbeddingRequest("m", ((1, 2),)), LIMITS)

    assert refusal.value.param == "input"


@pytest.mark.parametrize("nested", [False, True])
def test_a_request_of_geminis_becomes_one_of_openais(nested: bool) -> None:
    settings = {"taskType": "RETRIEVAL_QUERY", "output_dimensionality": 3}
    request = {"content": {"parts": [{"text": "a"}]}, **({"embedContentConfig": settings} if nested else settings)}

    one = ONE.read_request(encoded(request), model="alias")
    several = SEVERAL.read_request(encoded({"requests": [{**request, "model": "models/alias"}] * 2}), model="alias")

    assert one == EmbeddingRequest("alias", ("a",), 3, task_type="RETRIEVAL_QUERY", dialect=ONE.name)
    assert several.inputs == ("a", "a")
    written = OPENAI.write_request(several, LIMITS)
    assert written.dropped == ("taskType",)
    assert json.loads(written.body) == {
        "model": "embedder",
        "input": ["a", "a"],
        "encoding_format": "float",
        "dimensions": 3,
    }
    assert json.loads(ONE.write_request(one, LIMITS).body)["taskType"] == "RETRIEVAL_QUERY"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": [{"content": {"parts": []}}]}, "requests[0].content"),
        (
            {"requests": [{"content": {"parts": [{"inlineData": {}}]}}]},
            "requests[0].content.parts[0].text",
        ),
        (
            {
                "requests": [
                    {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3},
                    {"content": {"parts": [{"text": "a"}]}},
                ]
            },
            "requests",
        ),
    ],
)
def test_geminis_fields_are_checked(body: Any, param: str) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        SEVERAL.read_request(encoded(body), model="m")

    assert refusal.value.param == param


def test_vectors_of_gemini_reach_openais_clients_in_either_encoding() -> None:
    answer = encoded({"embeddings": [{"values": [0.5, -1.0]}, {"values": [1.0, 0.25]}]})
    asked = EmbeddingRequest("alias", ("a", "b"))

    reply = SEVERAL.read_reply(answer)

    as_numbers = json.loads(OPENAI.write_reply(reply, asked))
    assert [each["embedding"] for each in as_numbers["data"]] == [[0.5, -1.0], [1.0, 0.25]]
    assert [each["index"] for each in as_numbers["data"]] == [0, 1]
    assert as_numbers["model"] == "alias"
    asked = EmbeddingRequest("alias", ("a", "b"), encoding="base64")
    as_bytes = json.loads(OPENAI.write_reply(reply, asked))["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(as_bytes)) == (0.5, -1.0)


@pytest.mark.parametrize("packed", [False, True])
def test_vectors_of_openai_reach_geminis_clients(packed: bool) -> None:
    vector: Any = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode() if packed else [0.5, -1.0]
    data = [{"index": 1, "embedding": [9.0]}, {"index": 0, "embedding": vector}]
    answer = encoded({"data": data, "model": "x", "usage": {"prompt_tokens": 4, "total_tokens": 4}})

    reply = OPENAI.read_reply(answer)

    assert reply == EmbeddingReply("x", ([0.5, -1.0], [9.0]), Usage(input=4))
    asked = EmbeddingRequest("alias", ("a", "b"))
    assert json.loads(SEVERAL.write_reply(reply, asked)) == {
        "embeddings": [{"values": [0.5, -1.0]}, {"values": [9.0]}],
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
    }
    assert json.loads(ONE.write_reply(reply, asked))["embedding"] == {"values": [0.5, -1.0]}


@pytest.mark.parametrize("dialect", [OPENAI, ONE, SEVERAL])
@pytest.mark.parametrize(
    "body", [b"<html>", b'{"data":[{"embedding":"%%"}],"embeddings":7}', b'{"embedding":7,"data":[{}]}']
)
def test_an_answer_that_is_none_is_refused(dialect: Any, body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        dialect.read_reply(body)


def test_each_request_of_a_batch_names_the_providers_model() -> None:
    body = encoded({"requests": [{"model": "models/alias", "content": {}}, {"content": {}}]})
    head = SEVERAL.read_head(body, model="alias")

    sent = json.loads(SEVERAL.with_model(body, head, "embedder"))

    assert [request["model"] for request in sent["requests"]] == ["models/embedder"] * 2
    one = b'{"model":"models/alias","content":{}}'
    assert json.loads(ONE.with_model(one, head, "embedder"))["model"] == "models/embedder"


def test_a_path_without_a_model_is_refused() -> None:
    with pytest.raises(MalformedBodyError):
        ONE.read_head(b"{}")


def test_usage_is_read_where_gemini_tells_it() -> None:
    raw, _ = SEVERAL.answer_usage(b'{"embeddings":[],"usageMetadata":{"promptTokenCount":7}}')

    assert raw is not None
    assert SEVERAL.usage(raw) == Usage(input=7)


def test_a_number_that_32_bits_cannot_hold_is_no_vector() -> None:
    asked = EmbeddingRequest("alias", ("a",), encoding="base64")

    with pytest.raises(MalformedAnswerError, match="32 bits"):
        OPENAI.write_reply(EmbeddingReply("m", ([1e308],), None), asked)

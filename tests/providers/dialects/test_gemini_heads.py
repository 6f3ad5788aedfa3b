"""The head of a request to Gemini: what path and body say, and what could be taken in two ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.errors import MalformedBodyError
from tests.providers.dialects.gemini_scene import EVERYTHING, GEMINI

# ── the head ──


def head(body: dict[str, Any] | bytes) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GEMINI.read_head(raw, model="m", stream=True)


def test_the_head_is_read_from_path_and_body() -> None:
    found = head(EVERYTHING)

    assert (found.model, found.stream, found.choices, found.thinking_budget) == ("m", True, 2, 1024)
    assert found.output_cap(GEMINI.output_cap_fields) == 500
    assert found.asked_for_usage


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"maxOutputTokens":1,"maxOutputToken\\u0073":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{},"generation_config":{"maxOutputTokens":9}}', "generationConfig"),
        (b'{"generationConfig":{"candidateCount":1},"generationConfig":{"candidateCount":9}}', "generationConfig"),
        (
            b'{"generationConfig":{"thinkingConfig":{"thinkingBudget":1,"thinkingBudget":9}}}',
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (b'{"generationConfig":{"maxOutputTokens":"9"}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"candidateCount":99999}}', "generationConfig.candidateCount"),
        (b'{"generationConfig":7}', "generationConfig"),
        (b"[]", ""),
        (b"{", None),
    ],
)
def test_a_head_that_can_be_taken_in_two_ways_is_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        head(body)

    assert refusal.value.param == param


def test_names_inside_texts_and_tools_are_no_repetition() -> None:
    text = '"generationConfig" {"maxOutputTokens": 1}'
    args = {"maxOutputTokens": 1, "generationConfig": {"candidateCount": 3}}
    parts = [{"text": text}, {"functionCall": {"name": "f", "args": args}}]

    assert head({"contents": [{"parts": parts}], "generationConfig": {"maxOutputTokens": 5}}).max_tokens == 5


def test_a_path_without_a_model_is_refused() -> None:
    with pytest.raises(MalformedBodyError):
        GEMINI.read_head(b"{}")


@pytest.mark.parametrize(
    ("body", "capped"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 50}}),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 50}}),
        ({"generationConfig": {"maxOutputTokens": 20}}, {"generationConfig": {"maxOutputTokens": 20}}),
        ({"generation_config": {"max_output_tokens": 80}}, {"generation_config": {"max_output_tokens": 50}}),
        (
            {"generationConfig": {"topP": 1, "maxOutputTokens": 0}},
            {"generationConfig": {"topP": 1, "maxOutputTokens": 50}},
        ),
    ],
)
def test_output_is_capped_where_it_says_so(body: dict[str, Any], capped: dict[str, Any]) -> None:
    assert json.loads(GEMINI.with_output_cap(json.dumps(body).encode(), GEMINI.output_cap_fields, 50)) == capped


def test_a_body_that_repeats_the_model_names_the_providers() -> None:
    body = b'{"model": "models/alias", "contents": [{"role": "model"}]}'
    plain_body = b'{"contents":[{"role":"model","parts":[{"text":"the \\"model\\": x"}]}]}'

    assert json.loads(GEMINI.with_model(body, head(body), "gemini-x"))["model"] == "models/gemini-x"
    assert GEMINI.with_model(plain_body, head(plain_body), "gemini-x") == plain_body

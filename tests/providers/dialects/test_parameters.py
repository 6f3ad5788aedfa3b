"""Fields that aliases set, in the words of each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.registry import get_dialect

NAMES = ["openai.chat", "openai.responses", "anthropic.messages", "gemini.generate_content"]


def changed(
    name: str, body: dict[str, Any], defaults: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None
) -> Any:
    raw = json.dumps(body).encode()
    return json.loads(get_dialect(name).with_parameters(raw, defaults or {}, overrides or {}))


@pytest.mark.parametrize(
    ("name", "settings", "body"),
    [
        ("openai.chat", {"max_tokens": 9, "stop": "END"}, {"max_tokens": 9, "stop": "END"}),
        ("openai.completions", {"temperature": 0.5}, {"temperature": 0.5}),
        ("openai.embeddings", {"dimensions": 256}, {"dimensions": 256}),
        ("openai.images", {"quality": "low"}, {"quality": "low"}),
        ("openai.responses", {"max_tokens": 9, "temperature": 1}, {"max_output_tokens": 9, "temperature": 1}),
        ("openai.responses", {"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ("openai.responses", {"stop": "END", "n": 2}, {}),
        ("anthropic.messages", {"max_completion_tokens": 9}, {"max_tokens": 9}),
        ("anthropic.messages", {"stop": "END", "top_k": 3}, {"stop_sequences": ["END"], "top_k": 3}),
        (
            "anthropic.messages",
            {"stop": ["A", "B"], "user": "ana"},
            {"stop_sequences": ["A", "B"], "metadata": {"user_id": "ana"}},
        ),
        ("anthropic.messages", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        ("anthropic.messages", {"frequency_penalty": 1, "response_format": {}}, {}),
        (
            "gemini.generate_content",
            {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": "END", "n": 2, "seed": 7},
            {
                "generationConfig": {
                    "maxOutputTokens": 9,
                    "temperature": 0.5,
                    "topP": 0.9,
                    "topK": 3,
                    "stopSequences": ["END"],
                    "candidateCount": 2,
                    "seed": 7,
                }
            },
        ),
        ("gemini.generate_content", {"response_format": {}, "user": "ana"}, {}),
    ],
)
def test_each_dialect_says_it_in_its_own_words(name: str, settings: dict[str, Any], body: dict[str, Any]) -> None:
    assert changed(name, {"kept": [1]}, settings) == {"kept": [1], **body}
    assert changed(name, {"kept": [1]}, None, settings) == {"kept": [1], **body}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai.chat", {"max_tokens": 5}),
        ("openai.chat", {"max_completion_tokens": 5}),
        ("openai.responses", {"max_output_tokens": 5}),
        ("anthropic.messages", {"max_tokens": 5}),
        ("gemini.generate_content", {"generationConfig": {"maxOutputTokens": 5}}),
        ("gemini.generate_content", {"generation_config": {"max_output_tokens": 5}}),
    ],
)
@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
class TestCaps:
    def test_a_default_is_for_those_who_do_not_say(self, name: str, said: dict[str, Any], cap: str) -> None:
        assert changed(name, said, {cap: 9}) == said

    def test_an_override_leaves_no_other_cap_beside_it(self, name: str, said: dict[str, Any], cap: str) -> None:
        found = changed(name, said, None, {cap: 9})

        caps = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        path = "m" if name.startswith("gemini") else ""
        head = get_dialect(name).read_head(json.dumps({"model": "m", **found}).encode(), model=path)
        assert head.output_cap(caps) == 9
        assert "5" not in json.dumps(found)

    def test_null_takes_it_away(self, name: str, said: dict[str, Any], cap: str) -> None:
        assert "5" not in json.dumps(changed(name, {**said, "kept": 1}, None, {cap: None}))


def test_both_caps_can_be_set() -> None:
    both = {"max_tokens": 7, "max_completion_tokens": 8}

    assert changed("openai.chat", {}, None, both) == both


def test_null_in_a_request_is_the_same_as_absent() -> None:
    assert changed("openai.chat", {"temperature": None}, {"temperature": 1}) == {"temperature": 1}


@pytest.mark.parametrize("name", NAMES)
def test_what_changes_nothing_leaves_the_very_bytes(name: str) -> None:
    body = b'{ "model": "m",  "temperature": 1.50, "generationConfig": {"temperature": 1.50}}'

    assert get_dialect(name).with_parameters(body, {"temperature": 0}, {"stop": None}) is body


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["model", "stream", "stream_options", "messages", "input"])
def test_what_a_request_asks_and_how_it_is_answered_is_not_set(name: str, field: str) -> None:
    said = {"model": "m", "stream": True, "messages": [], "input": "Hi", "stream_options": {}}

    assert changed(name, said, {field: "x"}, {field: "y"}) == said


def test_the_rest_of_a_nested_object_stays() -> None:
    said = {"generation_config": {"top_p": 0.5, "thinkingConfig": {"thinkingBudget": 3}}}

    assert changed("gemini.generate_content", said, None, {"top_p": 0.9, "max_tokens": 3}) == {
        "generation_config": {"top_p": 0.9, "thinkingConfig": {"thinkingBudget": 3}, "maxOutputTokens": 3}
    }


def test_values_are_not_rewritten_on_the_way() -> None:
    body = b'{"model":"m","seed":9007199254740993,"temperature":1.50,"messages":[{"content":"\\u00e4 \xc3\xa4"}]}'

    found = get_dialect("openai.chat").with_parameters(body, {}, {"top_p": 1})

    assert found == body[:-1] + b',"top_p":1}'

"""Bodies that would take seconds to read are refused before that."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from providers.adapters.body import read_head
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedBodyError
from providers.adapters.field_names import LARGE_BYTES, MOST_FIELDS, field_names

MANY = b",".join(b'"a%d":1' % number for number in range(400_000))
"""Some five megabytes. Reading them takes a quarter of a second."""
GEMINI = get_dialect("gemini.generate_content")


def read_gemini(body: bytes) -> object:
    return GEMINI.read_head(body, model="m")


@pytest.mark.parametrize("read", [read_head, read_gemini], ids=["openai", "gemini"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m",' + MANY + b"}", ""),
        (b'{"model":"m",' + b'"a":1,' * 800_000 + b'"b":1}', ""),
        (b'{"model":"m","thinking":{' + MANY + b"}}", "thinking"),
        (b'{"model":"m","stream_options":{' + MANY + b"}}", "stream_options"),
        (b'{"model":"m","\\u0067enerationConfig":{' + MANY + b"}}", "generationConfig"),
        (b'{"model":"m","generation_config":{' + MANY + b"}}", "generation_config"),
        (b'{"model":"m","metadata":{' + MANY + b'},"metadata":{}}', "metadata"),
    ],
    ids=["many", "twice", "thinking", "stream_options", "escaped", "generation_config", "two"],
)
def test_millions_of_fields_are_refused_before_they_are_read(
    read: Callable[[bytes], object], body: bytes, param: str
) -> None:
    began = time.thread_time()

    with pytest.raises(MalformedBodyError) as raised:
        read(body)

    assert raised.value.param == param
    assert time.thread_time() - began < 0.08


def test_a_long_conversation_is_no_reason_to_refuse() -> None:
    turn = b'{"role":"user","content":"a: b"},'
    body = b'{"model":"m","messages":[' + turn * 20_000 + turn[:-1] + b'],"tools":[{"x":{' + MANY + b"}}]}"

    assert len(body) > LARGE_BYTES
    assert read_head(body).model == "m"


@pytest.mark.parametrize("read", [read_head, read_gemini], ids=["openai", "gemini"])
def test_nothing_hides_behind_many_other_names(read: Callable[[bytes], object]) -> None:
    """A field that stands twice is found wherever it stands, or the body is refused."""
    names = b"".join(b'"a:%d":1,' % number for number in range(MOST_FIELDS + 5))
    config = b'{"model":"m",' + names + b'"generationConfig":{},"generationConfig":{"maxOutputTokens":5}}'
    assert len(config) < LARGE_BYTES

    with pytest.raises(MalformedBodyError):
        read(config)


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (b'"maxOutputTokens":1,"max_output_tokens":2', "generationConfig.maxOutputTokens"),
        (b'"thinkingConfig":{"thinkingBudget":1,"thinking\\u0042udget":2}', "generationConfig.thinkingConfig.thinkingBudget"),
        (b'"a":1,"\\u0061":2', "generationConfig.a"),
    ],
)  # fmt: skip
def test_what_decides_in_gemini_s_settings_stands_there_once(settings: bytes, param: str) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        read_gemini(b'{"contents":[],"generationConfig":{' + settings + b"}}")

    assert raised.value.param == param


@pytest.mark.parametrize("body", [b"[1]", b'"a"', b"{", b"", b'{"a":1'])
def test_what_is_no_object_has_no_names(body: bytes) -> None:
    assert field_names(body) in ([], ["a"])


def test_names_are_told_in_order_and_as_often_as_they_stand() -> None:
    body = '{"b":{"x":1},"a":[{"b":1}],"":2,"\\u0062":3,"\u00e9":4}'.encode()

    assert field_names(body) == ["b", "a", "", "b", "\u00e9"]

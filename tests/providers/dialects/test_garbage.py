"""Whatever clients and providers send: readers complain in their own words or read on, and never break."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Event
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError
from tests.providers.dialects.strategies import read_stream, written_stream

NAMES = ["openai.chat", "openai.responses"]
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
ASKED = Conversation("m", (), stream=True, include_usage=True)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 10**12), st.floats(), st.text(max_size=5))
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)

CHAT_REQUEST: Any = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s", "cache_control": {"type": "ephemeral"}},
        {"role": "user", "name": "n", "content": [
            {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
            {"type": "input_audio", "input_audio": {"data": "AAEC", "format": "wav"}},
            {"type": "file", "file": {"file_data": "AAEC", "filename": "a.pdf"}}]},
        {"role": "assistant", "content": "x", "refusal": "r", "audio": {"id": "a"}, "reasoning_content": "hm",
         "reasoning_details": [{"type": "reasoning.text", "text": "t", "signature": "s", "index": 0}],
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"},
                         "extra_content": {"google": {"thought_signature": "s"}}}],
         "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
        {"role": "function", "name": "f", "content": "t"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}},
              {"type": "custom", "custom": {"name": "g", "format": {"type": "text"}}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
        {"type": "function", "function": {"name": "f"}}]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "thinking": {"type": "enabled", "budget_tokens": 5}, "reasoning": {"effort": "low"}, "stop": ["a"],
    "logit_bias": {"5": 1}, "metadata": {"a": "b"}, "stream_options": {"include_usage": True}, "max_tokens": 5,
}  # fmt: skip
RESPONSES_REQUEST: Any = {
    "model": "m",
    "instructions": "i",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "t"},
                                     {"type": "input_image", "image_url": "data:image/png;base64,AAEC"},
                                     {"type": "input_file", "file_data": "AAEC"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "z"},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "t", "annotations": [{"type": "url_citation", "url": "u"}]}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "t"}]},
        {"type": "web_search_call", "id": "w"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "custom", "name": "g"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "json_schema", "name": "a"}},
    "include": ["reasoning.encrypted_content"], "metadata": {"a": "b"},
}  # fmt: skip
CHAT_REPLY: Any = {
    "id": "i", "model": "m", "created": 5, "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "choices": [{"index": 0, "finish_reason": "stop", "stop_reason": "x", "logprobs": {"content": [{"token": "t"}]},
                 "message": {**CHAT_REQUEST["messages"][2], "content": [{"type": "thinking", "thinking": [{"text": "t"}]}],
                             "images": [{"image_url": {"url": "data:image/png;base64,AAEC"}}],
                             "audio": {"id": "a", "data": "AAEC", "transcript": "t"},
                             "annotations": [{"type": "url_citation", "url_citation": {"url": "u", "start_index": 1}}]}}],
}  # fmt: skip
RESPONSES_REPLY: Any = {
    "id": "resp_1", "model": "m", "created_at": 5, "status": "incomplete", "incomplete_details": {"reason": "x"},
    "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 1}},
    "output": [*RESPONSES_REQUEST["input"][1:4], {"type": "image_generation_call", "result": "AAEC"}],
}  # fmt: skip
CHAT_CHUNKS: Any = [
    {**CHAT_REPLY, "choices": [{"index": 0, "delta": CHAT_REPLY["choices"][0]["message"], "finish_reason": None}]},
    {**CHAT_REPLY, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]},
    {"error": {"message": "m", "code": "c", "type": "t"}},
]
RESPONSES_EVENTS: Any = [
    {"type": "response.created", "response": {**RESPONSES_REPLY, "output": []}},
    *[{"type": "response.output_item.added", "output_index": at, "item": item}
      for at, item in enumerate(RESPONSES_REPLY["output"])],
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "t"},
    {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "t", "logprobs": []},
    {"type": "response.output_text.annotation.added", "output_index": 1, "content_index": 0, "annotation": {"url": "u"}},
    {"type": "response.content_part.done", "output_index": 1, "content_index": 0,
     "part": {"type": "output_text", "text": "t"}},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "t"},
    *[{"type": "response.output_item.done", "output_index": at, "item": item}
      for at, item in enumerate(RESPONSES_REPLY["output"])],
    {"type": "response.completed", "response": RESPONSES_REPLY},
]  # fmt: skip
REQUESTS = {"openai.chat": CHAT_REQUEST, "openai.responses": RESPONSES_REQUEST}
REPLIES = {"openai.chat": CHAT_REPLY, "openai.responses": RESPONSES_REPLY}
STREAMS = {"openai.chat": CHAT_CHUNKS, "openai.responses": RESPONSES_EVENTS}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[place for key, each in inner for place in places(each, (*path, key))]]


def with_junk(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_junk(value[path[0]], path[1:], junk)
    return copy


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something else in one place."""
    return with_junk(value, draw(st.sampled_from(places(value))), draw(JUNK))


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.data())
def test_a_spoiled_request_is_read_or_refused(name: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    body = json.dumps(data.draw(spoiled(REQUESTS[name]))).encode()

    try:
        written = dialect.write_request(dialect.read_request(body), Limits("m")).body
    except (MalformedBodyError, InexpressibleError):
        return
    assert json.loads(written)["model"] == "m"


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.data())
def test_a_spoiled_answer_is_read_or_refused(name: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    body = json.dumps(data.draw(spoiled(REPLIES[name]))).encode()

    try:
        reply = dialect.read_reply(body)
    except MalformedAnswerError:
        return
    assert dialect.read_reply(dialect.write_reply(reply, ASKED)).model == (reply.model or ASKED.model)


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.data())
def test_a_spoiled_stream_is_read_to_its_end(name: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    events = data.draw(spoiled(STREAMS[name]))
    lines = [json.dumps(event) for event in events] if isinstance(events, list) else [json.dumps(events)]
    stream = "".join(f"data: {line}\n\n" for line in lines).encode()

    read: list[Event] = read_stream(dialect, stream)

    for other in NAMES:
        assert isinstance(written_stream(get_dialect(other), read, ASKED), bytes)


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.binary(max_size=200))
def test_bytes_that_are_nothing_are_survived(name: str, noise: bytes) -> None:
    dialect = get_dialect(name)
    scanner = dialect.scanner(strip_usage=False)

    assert scanner.feed(noise) + scanner.finish() == noise
    assert isinstance(read_stream(dialect, noise), list)
    with pytest.raises(MalformedBodyError):
        dialect.read_request(b"\xff" + noise)

"""The most that a request can use."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters.base import Adapter
from providers.adapters.bounds import Bound, NotBoundableError, bound
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.registry import get_adapter

CHAT = get_dialect("openai.chat")
COMPLETIONS = get_dialect("openai.completions")
EMBEDDINGS = get_dialect("openai.embeddings")
ADAPTER: Adapter = get_adapter("openai_compatible")


def of(request: dict[str, Any], dialect: Dialect = CHAT, choices: int = 1) -> Bound:
    return bound(json.dumps({"model": "m", **request}).encode(), dialect, ADAPTER, choices=choices)


def saying(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@given(st.lists(st.text(), max_size=5))
def test_text_has_no_more_tokens_than_bytes(texts: list[str]) -> None:
    found = of({"messages": [{"role": "user", "content": text} for text in texts]})

    assert found.input_tokens >= sum(len(text.encode()) for text in texts)


def test_an_image_counts_its_maximum_and_not_its_text() -> None:
    image = "data:image/png;base64," + "A" * 400_000

    found = of(saying({"type": "image_url", "image_url": {"url": image}}))

    assert ADAPTER.max_image_tokens < found.input_tokens < ADAPTER.max_image_tokens + 200


@pytest.mark.parametrize(
    "request_body",
    [
        saying({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}),
        saying({"type": "image_url", "image_url": "https://example.org/cat.png"}),
        saying({"type": "file", "file": {"file_id": "file-1"}}),
        saying({"type": "novelty"}),
        {"previous_response_id": "resp_1", "messages": []},
        {"web_search_options": {}, "messages": []},
        {"tools": [{"type": "web_search"}], "messages": []},
        {"tools": [{"google_search": {}}], "messages": []},
        # Servers that take a part without a type, or one part in place of a list.
        saying({"image_url": "https://example.org/cat.png"}),
        saying({"video_url": {"url": "https://example.org/cat.mp4"}}),
        {"messages": [{"role": "user", "content": {"type": "image_url", "image_url": {"url": "https://x"}}}]},
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {"n_predict": -1, "messages": []},
        {"prediction": {"content": "x"}, "messages": []},
        {"service_tier": "priority", "messages": []},
        {"service_tier": ["priority"], "messages": []},
        {"extra_body": {"google": {"cached_content": "cachedContents/1"}}, "messages": []},
    ],
)
def test_what_is_not_in_the_request_cannot_be_bounded(request_body: dict[str, Any]) -> None:
    with pytest.raises(NotBoundableError):
        of(request_body)


@pytest.mark.parametrize(
    ("dialect", "request_body"),
    [
        (EMBEDDINGS, {"input": [{"type": "image_url", "image_url": {"url": "https://x/cat.png"}}]}),
        (EMBEDDINGS, saying({"type": "image_url", "image_url": {"url": "https://x/cat.png"}})),
        (COMPLETIONS, {"prompt": "a", "n_predict": -1}),
    ],
)
def test_other_operations_are_looked_through_as_well(dialect: Dialect, request_body: dict[str, Any]) -> None:
    with pytest.raises(NotBoundableError):
        of(request_body, dialect)


@pytest.mark.parametrize("tier", ["auto", "default", "flex", None])
def test_the_usual_tiers_are_bounded(tier: str | None) -> None:
    assert of({"service_tier": tier, "messages": []}).choices == 1


def test_an_escaped_name_hides_nothing() -> None:
    plain = json.dumps({"model": "m", **saying({"type": "image_url", "image_url": {"url": "https://x"}})})
    hidden = plain.replace("image_url", "\\u0069mage_url").replace("image", "im\\u0061ge").encode()

    with pytest.raises(NotBoundableError):
        bound(hidden, CHAT, ADAPTER, choices=1)


def test_functions_and_talk_of_images_are_text() -> None:
    found = of({"messages": [{"role": "user", "content": "search an image file"}], "tools": [{"type": "function"}]})

    assert found.input_tokens < 200


@pytest.mark.parametrize(("prompt", "choices"), [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1], [2]], 2)])
def test_each_prompt_of_a_completion_is_answered(prompt: Any, choices: int) -> None:
    assert of({"prompt": prompt}, COMPLETIONS).choices == choices
    assert of({"prompt": prompt}, COMPLETIONS, choices=2).choices == 2 * choices


MESSAGES = get_dialect("anthropic.messages")


def of_messages(**request: Any) -> Bound:
    return bound(json.dumps({"model": "m", **request}).encode(), MESSAGES, ADAPTER, choices=1)


def blocks(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}}


@pytest.mark.parametrize("content", [PNG, {"type": "tool_result", "tool_use_id": "t", "content": [PNG]}])
def test_an_image_in_a_message_counts_its_maximum_wherever_it_is(content: dict[str, Any]) -> None:
    found = of_messages(**blocks(content))

    assert ADAPTER.max_image_tokens < found.input_tokens < ADAPTER.max_image_tokens + 300


def test_messages_of_text_tools_and_thoughts_have_no_more_tokens_than_bytes() -> None:
    request = {
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}],
        **blocks({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A" * 1000}}),
        "service_tier": "auto",
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    found = of_messages(**request)

    assert 1000 < found.input_tokens - 2_000 < 1500


@pytest.mark.parametrize(
    "request_body",
    [
        blocks({"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}}),
        blocks({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        blocks({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}),
        blocks({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}),
        blocks({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "search_result"}]}),
        blocks({"type": "web_search_tool_result", "tool_use_id": "t", "content": []}),
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}], "messages": []},
        {"mcp_servers": [{"type": "url", "url": "https://x"}], "messages": []},
        {"container": "container_1", "messages": []},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}, "messages": []},
        {"speed": "fast", "messages": []},
        {"inference_geo": "us", "messages": []},
        {"service_tier": "priority", "messages": []},
    ],
)
def test_what_is_not_in_a_request_for_messages_cannot_be_bounded(request_body: dict[str, Any]) -> None:
    with pytest.raises(NotBoundableError):
        of_messages(**request_body)


# ── Gemini's contents ──

GENERATE = get_dialect("gemini.generate_content")
BATCH = get_dialect("gemini.batch_embed_contents")
PICTURE_DATA = "A" * 400_000


def parts(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}], **more}


@pytest.mark.parametrize("spelled", [("inlineData", "mimeType"), ("inline_data", "mime_type")])
def test_an_image_in_contents_counts_its_maximum(spelled: tuple[str, str]) -> None:
    picture: dict[str, Any] = {spelled[0]: {spelled[1]: "image/png", "data": PICTURE_DATA}}
    shown: dict[str, Any] = {"functionResponse": {"name": "f", "response": {}, "parts": [picture]}}

    assert ADAPTER.max_image_tokens < of(parts(picture), GENERATE).input_tokens < ADAPTER.max_image_tokens + 200
    assert of(parts(shown), GENERATE).input_tokens > ADAPTER.max_image_tokens


def test_text_tools_and_thoughts_of_contents_are_bounded_by_their_bytes() -> None:
    body = parts(
        {"text": "Hi", "thought": True},
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "eA=="},
        systemInstruction={"parts": [{"text": "Be brief."}]},
        tools=[{"functionDeclarations": [{"name": "f"}]}],
        generationConfig={"responseModalities": ["TEXT", "AUDIO"], "candidateCount": 2},
        serviceTier="standard",
    )

    assert of(body, GENERATE, choices=2) == Bound(len(json.dumps({"model": "m", **body})), 2)
    assert of({"requests": [{"content": {"parts": [{"text": "a"}]}}]}, BATCH).input_tokens < 100


@pytest.mark.parametrize(
    "request_body",
    [
        parts({"fileData": {"fileUri": "https://example.org/a.mp4"}}),
        parts({"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}),
        parts({"inline_data": {"mime_type": "audio/flac", "data": "AAAA"}}),
        parts({"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "videoMetadata": {"fps": 24}}),
        parts({"novelty": {}}),
        parts({"functionResponse": {"name": "f", "parts": [{"fileData": {"fileUri": "gs://a"}}]}}),
        parts(cachedContent="cachedContents/1"),
        parts(cached_content="cachedContents/1"),
        parts(continuationToken="x"),
        parts(tools=[{"googleSearch": {}}]),
        parts(tools=[{"functionDeclarations": [], "code_execution": {}}]),
        parts(serviceTier="priority"),
        parts(generationConfig={"responseModalities": ["IMAGE"]}),
        parts(generation_config={"routing_config": {}}),
        {"systemInstruction": {"parts": [{"fileData": {"fileUri": "gs://a"}}]}},
    ],
)
def test_contents_whose_size_nobody_knows_have_no_bound(request_body: dict[str, Any]) -> None:
    with pytest.raises(NotBoundableError):
        of(request_body, GENERATE)


# ── OpenAI's responses ──


RESPONSES = get_dialect("openai.responses")
PICTURE = "data:image/png;base64," + "A" * 400_000


def test_items_of_text_are_bounded_by_their_bytes() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "ok"}]},
    ]
    request = {"input": items, "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]}

    assert of(request, RESPONSES).input_tokens == len(json.dumps({"model": "m", **request}).encode())


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PICTURE}]},
    ],
)
def test_an_image_of_an_item_counts_its_maximum(item: dict[str, Any]) -> None:
    found = of({"input": [item]}, RESPONSES)

    assert ADAPTER.max_image_tokens < found.input_tokens < ADAPTER.max_image_tokens + 300


@pytest.mark.parametrize(
    "request_",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"background": True},
        {"reasoning": {"mode": "pro"}},
        {"service_tier": "priority"},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
    ],
)
def test_what_is_not_in_a_request_for_a_response_has_no_bound(request_: dict[str, Any]) -> None:
    with pytest.raises(NotBoundableError):
        of(request_, RESPONSES)


@pytest.mark.parametrize("kind", [{"a": 1}, ["text"], 7])
@pytest.mark.parametrize("dialect", [RESPONSES, CHAT, MESSAGES])
def test_a_type_that_is_no_text_has_no_bound(dialect: Any, kind: Any) -> None:
    for request_ in (
        {"tools": [{"type": kind}]},
        {"input": [{"type": kind}]},
        {"messages": [{"role": "user", "content": [{"type": kind}]}]},
        {"input": [{"role": "user", "content": [{"type": kind}]}]},
    ):
        with contextlib.suppress(NotBoundableError):
            of(request_, dialect)

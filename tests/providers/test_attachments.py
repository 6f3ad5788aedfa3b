"""What counts as an attachment and not as text: only base64 that stands where a provider looks for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.attachments import ATTACHMENT_MIN, attached_bytes, attached_kinds
from providers.adapters.body import estimate_input_tokens

LONG = "A" * 100_000
WORDS = "word" * 25_000
"""Text without a space, which base64 could be."""


def chat(*parts: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(parts)}]}).encode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{LONG}"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{LONG}"}},
        {"type": "input_audio", "input_audio": {"data": LONG, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LONG}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": LONG}}]},
        {"type": "input_image", "image_url": f"data:image/png;base64,{LONG}"},
        {"type": "input_file", "file_data": f"data:application/pdf;base64,{LONG}"},
        {"inlineData": {"mimeType": "image/png", "data": LONG}},
        {"type": "document_url", "document_url": f"data:application/pdf;base64,{LONG}"},
    ],
)
def test_attachments_are_not_counted_as_text(part: dict[str, Any]) -> None:
    assert estimate_input_tokens(chat(part, part, part), 4.0) < 200


def test_attachments_are_found_in_every_list_of_messages() -> None:
    part = {"inline_data": {"mime_type": "image/png", "data": LONG}}

    assert attached_bytes(json.dumps({"contents": [{"parts": [part]}]}).encode()) == len(LONG)
    assert attached_bytes(json.dumps({"input": [{"content": [part]}]}).encode()) == len(LONG)


@pytest.mark.parametrize(
    "body",
    [
        chat({"type": "text", "text": f"data:image/png;base64,{WORDS}"}),
        chat({"type": "text", "text": f'"image_url":{{"url":"data:image/png;base64,{WORDS}"}}'}),
        chat({"type": "tool_use", "input": {"data": WORDS, "image_url": f"x;base64,{WORDS}"}}),
        chat({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": WORDS}}),
        chat({"type": "document", "source": {"type": "base64", "media_type": "text/csv", "data": WORDS}}),
        chat({"type": "file", "file": {"file_data": f"data:text/plain;base64,{WORDS}"}}),
        chat({"inlineData": {"mimeType": "text/plain", "data": WORDS}}),
        json.dumps({"messages": [{"role": "user", "content": f"see;base64,{WORDS}"}]}).encode(),
        json.dumps({"prompt": f"x;base64,{WORDS}", "input": f"x;base64,{WORDS}"}).encode(),
        json.dumps({"tools": [{"image_url": {"url": f"x;base64,{WORDS}"}}], "messages": []}).encode(),
        json.dumps({"messages": {"content": [{"image_url": f";base64,{WORDS}"}]}, "input": [WORDS, None]}).encode(),
    ],
)
def test_text_that_looks_like_base64_counts_as_text(body: bytes) -> None:
    """Whoever may say where base64 begins could else send any amount of text past a limit of tokens."""
    assert attached_bytes(body) == 0


@pytest.mark.parametrize(
    "text", ["words and words ", "words.and.words.", "words_and_words-", "words\n", "中文", "\u00e9"]
)
@pytest.mark.parametrize("place", ["image_url", "input_audio"])
def test_what_is_no_base64_counts_as_text_wherever_it_stands(place: str, text: str) -> None:
    part = {place: {"url": f"x;base64,{text * 2000}", "data": text * 2000}}

    assert attached_bytes(chat(part)) == 0
    assert estimate_input_tokens(chat(part), 4.0, max_sample_bytes=100_000) > 900


def test_a_head_as_long_as_a_prompt_is_text() -> None:
    part = {"image_url": {"url": f"data:{WORDS};base64,{LONG}"}}

    assert attached_bytes(chat(part)) == 0


def test_gemini_s_other_alphabet_is_base64_where_gemini_reads_it() -> None:
    urlsafe = "A-_9" * 1000

    assert attached_bytes(chat({"inlineData": {"mimeType": "image/png", "data": urlsafe}})) == len(urlsafe)
    assert attached_bytes(chat({"input_audio": {"data": urlsafe}})) == 0


def test_short_base64_is_text() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}

    assert attached_bytes(chat(part, {"type": "text", "text": "x" * ATTACHMENT_MIN})) == 0


def test_what_is_to_be_embedded_is_looked_at_too() -> None:
    content = {"parts": [{"inlineData": {"mimeType": "image/png", "data": LONG}}]}

    assert attached_bytes(json.dumps({"content": content}).encode()) == len(LONG)
    assert attached_bytes(json.dumps({"requests": [{"content": content}] * 2}).encode()) == 2 * len(LONG)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image"),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}, "image"),
        ({"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}, "video"),
        ({"inline_data": {"mime_type": "audio/wav", "data": "AAAA"}}, "audio"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}, "application"),
        ({"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}, "application"),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "AAAA"}}, "text"),
        ({"inlineData": {"data": "AAAA"}}, "?"),
        ({"type": "tool_result", "content": [{"inlineData": {"mimeType": "image/png", "data": "A"}}]}, "image"),
    ],
    ids=ascii,
)
def test_the_kind_of_an_attachment_is_known(part: dict[str, Any], kind: str) -> None:
    assert attached_kinds(chat({"type": "text", "text": "a"}, part)) == {kind}
    assert attached_kinds(chat(part, {"inlineData": {"mimeType": "image/gif", "data": "A"}})) == {kind, "image"}


@pytest.mark.parametrize("body", [b"", b'{"data"', b'["data"]', chat({"type": "text", "text": '"data"'})], ids=ascii)
def test_where_nothing_is_attached_there_is_no_kind(body: bytes) -> None:
    assert attached_kinds(body) == frozenset()

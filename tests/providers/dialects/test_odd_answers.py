"""What no provider should send ends a stream or an answer in a way that callers are told of, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects._gemini_logprobs import write_logprobs
from providers.adapters.dialects.base import Dialect, Limits
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.translation import StreamTranslator
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError

CHAT, MESSAGES = get_dialect("openai.chat"), get_dialect("anthropic.messages")
GEMINI, RESPONSES = get_dialect("gemini.generate_content"), get_dialect("openai.responses")
ASKED = CHAT.read_request(b'{"model":"m","messages":[]}')


@pytest.mark.parametrize("inbound", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_delta", "index": -1, "delta": {"type": "input_json_delta", "partial_json": "x"}},
    ],
)
def test_a_piece_of_a_block_that_never_began_cannot_be_read(inbound: Dialect, event: dict[str, Any]) -> None:
    translator = StreamTranslator(MESSAGES.stream_reader(), inbound.stream_writer(ASKED), model="m")
    begun = {"type": "message_start", "message": {"id": "1", "model": "m", "usage": {}}}

    stream = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (begun, event))

    with pytest.raises(MalformedAnswerError, match="never began"):
        translator.feed(stream)


def test_bytes_that_are_no_text_hide_no_usage_of_gemini() -> None:
    scanner = GEMINI.scanner(strip_usage=False)
    event = (
        b'data: {"candidates":[{"content":{"parts":[{"text":"\xff"}]},"groundingMetadata":{"webSearchQueries":["q"]}}],'
        b'"usageMetadata":{"promptTokenCount":3}}\n\n'
    )

    assert scanner.feed(event) + scanner.finish() == event
    assert scanner.usage_raw == {"promptTokenCount": 3}


def test_bytes_that_are_no_text_hide_no_usage_of_a_response() -> None:
    body = b'{"model":"m","output":[{"type":"web_search_call"},{"text":"\xff"}],"usage":{"input_tokens":3}}'

    assert RESPONSES.answer_usage(body) == ({"input_tokens": 3}, "m")


@pytest.mark.parametrize("content", [7, ["a"], [{"token": "a", "top_logprobs": 3}], [{}]])
def test_odd_probabilities_are_left_out(content: Any) -> None:
    write_logprobs({"content": content})


def test_an_address_that_is_none_is_for_the_provider_to_refuse() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://[::1"}}
    asked = {"model": "m", "messages": [{"role": "user", "content": [image]}]}

    written = GEMINI.write_request(CHAT.read_request(json.dumps(asked).encode()), Limits("m"))

    assert b'"fileUri":"https://[::1"' in written.body


def test_an_address_of_gemini_s_that_is_none_is_named() -> None:
    asked = {"contents": [{"parts": [{"fileData": {"fileUri": "https://[::1", "mimeType": "image/png"}}]}]}

    with pytest.raises(MalformedBodyError) as caught:
        GEMINI.read_request(json.dumps(asked).encode(), model="m")

    assert str(caught.value.param).endswith("fileUri")


def test_a_result_of_a_tool_is_nothing_that_a_system_says() -> None:
    asked = {
        "model": "m", "max_tokens": 9, "messages": [],
        "system": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}],
    }  # fmt: skip

    with pytest.raises(InexpressibleError):
        GEMINI.write_request(MESSAGES.read_request(json.dumps(asked).encode()), Limits("m"))

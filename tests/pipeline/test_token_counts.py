"""Tokens are counted where a provider reported none, with a tokenizer that may or may not be installed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgateway.pipeline import token_counts
from llmgateway.pipeline.token_counts import COUNTED_CHARACTERS, TokenCounter, installed_counter
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.texts import MOST_NODES, texts_of_answer, texts_of_request
from providers.adapters.field_names import LARGE_BYTES

CHAT = get_dialect("openai.chat")
WORDS = "The quick brown fox jumps over the lazy dog. "
FOX = 10
"""Tokens of a sentence, as OpenAI's own tokenizer counts them: a word each, and the full stop."""


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def counter() -> TokenCounter:
    """Counts words."""
    return TokenCounter(words)


@pytest.fixture
def installed() -> TokenCounter:
    found = installed_counter()
    assert found is not None, "the extra `tokens` is among what tests need"
    return found


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


# ── the tokenizer ──


def test_the_installed_tokenizer_counts_as_openai_does(installed: TokenCounter) -> None:
    assert installed.texts([WORDS.strip()]) == FOX
    assert installed.texts(["hello world"]) == 2
    assert installed.texts(["漢字かな交じり文"]) in range(6, 10)


def test_it_takes_any_text(installed: TokenCounter) -> None:
    for odd in ("", "\ud800", "<|endoftext|>", "\0" * 10, "👩‍👩‍👧"):
        assert installed.texts([odd]) >= 0
    assert installed.texts(["<|endoftext|>"]) > 1, "what a caller writes is text and no sign of the provider's"


@pytest.mark.parametrize("text", [WORDS, "a", " ", "\n", "漢", "\0", "👩‍"], ids=ascii)
def test_a_long_text_takes_no_longer_than_the_part_that_is_counted(installed: TokenCounter, text: str) -> None:
    longest = text * (4_000_000 // len(text))
    began = time.thread_time()

    counted = installed.texts([longest])

    # Two milliseconds are usual; all of it would take fifty at least.
    assert time.thread_time() - began < 0.04
    assert counted > 0


def test_of_a_long_text_the_rest_is_taken_to_be_like_the_pieces(installed: TokenCounter, counter: TokenCounter) -> None:
    sentences = 40 * COUNTED_CHARACTERS // len(WORDS)

    assert installed.texts([WORDS * sentences]) == pytest.approx(FOX * sentences, rel=0.001)
    # Neither its beginning nor its end speaks for all of it.
    assert counter.texts(["a " * 1_000_000 + "b" * 2_000_000]) == pytest.approx(1_000_000, rel=0.1)


def test_without_the_package_nothing_is_imported_and_nobody_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "_PACKAGE", "bpe_of_nobody")

    assert installed_counter.__wrapped__() is None


def test_a_package_that_cannot_be_used_is_told_once_and_nobody_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bpe_of_nobody").mkdir()
    (tmp_path / "bpe_of_nobody" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(token_counts, "_PACKAGE", "bpe_of_nobody")

    with caplog.at_level(logging.WARNING):
        counter = installed_counter.__wrapped__()
        assert counter is not None
        assert [counter.request(request(prompt="one two three")) for _ in range(2)] == [None, None]

    assert caplog.text.count("bpe_of_nobody is installed and cannot be used") == 1


def test_the_tokenizer_is_loaded_when_it_is_first_needed() -> None:
    loaded: list[str] = []

    def load() -> Callable[[str], int]:
        loaded.append("once")
        return lambda text: len(text.split())

    counter = TokenCounter(None, load)
    assert not loaded
    assert [counter.request(request(prompt="one two three")) for _ in range(2)] == [3, 3]
    assert loaded == ["once"]


def test_the_package_around_the_tokenizer_is_never_imported() -> None:
    program = (
        "import sys; from llmgateway.pipeline.token_counts import installed_counter;"
        "assert not any(name.startswith('bpe_openai') for name in sys.modules);"
        "assert installed_counter().texts(['hello world']) == 2;"
        "assert 'bpe_openai' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# ── requests ──


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (request(prompt="one two three"), 3),
        (request(input=["one two", "three"]), 3),
        (request(input=[7, 8, 9]), 3),
        (request(input=[[7, 8], [9]]), 3),
        (request(query="one", documents=["two", {"text": "three"}]), 3),
        (request(prompt="one", suffix="two three", max_tokens=99), 3),
        (request(messages=[{"role": "user", "content": "one two"}]), 2 + 4 + 3),
        (request(system="one", messages=[{"role": "user", "content": "two"}]), 2 + 4 + 3),
        (request(messages=[{"role": "user", "content": [{"type": "text", "text": "one two"}]}] * 2), 4 + 8 + 3),
        (request(generateContentRequest={"contents": [{"parts": [{"text": "one two"}]}]}), 2 + 4 + 3),
        (request(contents=[{"role": "user", "parts": [{"text": "one two"}]}]), 2 + 4 + 3),
        (request(instructions="one", input=[{"role": "user", "content": "two"}]), 2 + 4 + 3),
    ],
    ids=ascii,
)
def test_what_a_model_reads_of_a_request_is_counted(counter: TokenCounter, body: bytes, tokens: int) -> None:
    assert counter.request(body) == tokens


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA BB"}},
        {"type": "input_audio", "input_audio": {"data": "AA BB", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA BB"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA BB"}},
        {"inlineData": {"mimeType": "image/png", "data": "AA BB"}},
        {"type": "thinking", "thinking": "", "signature": "AA BB"},
        {"type": "reasoning", "encrypted_content": "AA BB"},
    ],
    ids=ascii,
)
def test_what_is_no_text_is_not(counter: TokenCounter, part: dict[str, Any]) -> None:
    assert counter.request(request(messages=[{"role": "user", "content": [part]}])) == 4 + 3


def test_a_document_that_is_text_is(counter: TokenCounter) -> None:
    part = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "one two"}}

    assert counter.request(request(messages=[{"role": "user", "content": [part]}])) == 2 + 4 + 3


def test_tools_are_counted_with_the_names_of_their_fields(installed: TokenCounter) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"place": {}}}}}
    said = installed.request(request(messages=[]))
    assert said is not None

    with_tools = installed.request(request(messages=[], tools=[tool]))

    assert with_tools is not None
    assert with_tools - said in range(15, 40)


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b"{", b"\xff", request(prompt="x" * LARGE_BYTES), request(prompt=[1] * (MOST_NODES + 1))],
    ids=["nothing", "no object", "no JSON", "no text", "too long", "too many values"],
)
def test_what_is_no_object_or_too_much_to_look_at_is_left_to_the_estimate(counter: TokenCounter, body: bytes) -> None:
    assert texts_of_request(body) is None
    assert counter.request(body) is None


def test_the_deepest_nesting_is_no_trouble(counter: TokenCounter) -> None:
    deep = b'{"messages":' + b"[" * 900 + b'"one two"' + b"]" * 900 + b"}"

    assert counter.request(deep) == 2


def test_the_largest_body_that_is_looked_at_is_looked_at_in_milliseconds(installed: TokenCounter) -> None:
    body = request(messages=[{"role": "user", "content": "a"}] * 7_000)
    assert LARGE_BYTES * 0.8 < len(body) <= LARGE_BYTES
    began = time.thread_time()

    assert installed.request(body) == 7_000 * (2 + 4) + 3 - 1

    assert time.thread_time() - began < 0.1


# ── answers ──


def test_an_answer_is_counted_with_its_thoughts_and_calls(counter: TokenCounter) -> None:
    call = {"id": "c 1 2", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "one two", "reasoning_content": "three", "tool_calls": [call]}
    answer = {"id": "x y", "model": "m m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}] * 2}

    assert counter.answer(CHAT, json.dumps(answer).encode()) == 2 * (2 + 1 + 1 + 2)


def test_an_answer_of_the_older_kind_is_counted(counter: TokenCounter) -> None:
    answer = {"choices": [{"index": 0, "text": "one two", "finish_reason": "stop", "logprobs": {"tokens": ["a b"]}}]}

    assert counter.answer(get_dialect("openai.completions"), json.dumps(answer).encode()) == 2


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":7}', b"x" * (LARGE_BYTES + 1)], ids=["a", "b", "c", "d"])
@pytest.mark.parametrize("dialect", ["openai.completions", "openai.chat"])
def test_an_answer_that_nobody_can_read_is_left_to_the_estimate(dialect: str, body: bytes) -> None:
    assert not texts_of_answer(get_dialect(dialect), body)


# ── streams ──


def event(text: str) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


SPOKEN = [f"word{number} " for number in range(3_000)]
STREAM = b"".join(map(event, SPOKEN)) + b"data: [DONE]\n\n"


def listened(counter: TokenCounter) -> Any:
    counter.note(7, reported=False)
    return counter.listening(CHAT.scanner(strip_usage=True), CHAT, 7)


@pytest.mark.parametrize("size", [11, 997, 10**6])
def test_a_stream_is_counted_however_it_is_cut(counter: TokenCounter, size: int) -> None:
    scanner, plain = listened(counter), CHAT.scanner(strip_usage=True)
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]

    onward = b"".join([scanner.feed(piece) for piece in pieces]) + scanner.finish()

    assert onward == b"".join([plain.feed(piece) for piece in pieces]) + plain.finish()
    assert scanner.estimated_output(4.0) == len(SPOKEN)
    assert (scanner.done, scanner.first_token, scanner.usage_raw) == (True, True, None)


def test_no_text_of_a_stream_is_kept_once_it_is_counted(counter: TokenCounter) -> None:
    scanner = listened(counter)

    scanner.feed(STREAM)

    assert sum(map(len, scanner._unread)) < token_counts.STREAM_PIECE_CHARACTERS


def test_a_stream_that_cannot_be_read_goes_on_and_is_estimated(counter: TokenCounter) -> None:
    scanner, plain = listened(counter), CHAT.scanner(strip_usage=True)
    broken = event("one ") + b'data: {"choices":[{"in\n\n' + event("two")

    assert scanner.feed(broken) == plain.feed(broken)
    assert scanner.estimated_output(4.0) == plain.estimated_output(4.0)


def test_streams_are_listened_to_only_where_the_latest_brought_no_usage(counter: TokenCounter) -> None:
    scanner = CHAT.scanner(strip_usage=True)

    assert counter.listening(scanner, CHAT, 7) is scanner
    counter.note(7, reported=False)
    assert counter.listening(scanner, CHAT, 7) is not scanner
    assert counter.listening(scanner, CHAT, 8) is scanner
    assert counter.listening(scanner, get_dialect("openai.completions"), 7) is scanner, "nobody can read its events"
    counter.note(7, reported=True)
    assert counter.listening(scanner, CHAT, 7) is scanner

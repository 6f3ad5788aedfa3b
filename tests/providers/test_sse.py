"""The stream scanner: what it learns and forwards must not depend on where the network cuts the bytes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.adapters.sse import HELD_MAX, SCANNED_MAX, UsageScanner, json_usage

USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


def event(payload: Any, end: str = "\n\n", prefix: str = "data: ") -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    return f"{prefix}{text}{end}".encode()


def delta(content: str = "Hi", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return {"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [choice], **more}


ROLE = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
}
USAGE_CHUNK = {"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [], "usage": USAGE}
FILTER_CHUNK = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
DONE = event("[DONE]")


@dataclass(frozen=True)
class Seen:
    forwarded: bytes
    usage: dict[str, Any] | None
    model: str
    error: dict[str, Any] | None
    done: bool
    output_chunks: int
    first_token: bool
    received: int


def scan(chunks: list[bytes], *, strip: bool) -> Seen:
    scanner = UsageScanner(strip)
    return seen(scanner, b"".join([*map(scanner.feed, chunks), scanner.finish()]))


def seen(scanner: UsageScanner, forwarded: bytes) -> Seen:
    return Seen(
        forwarded,
        scanner.usage_raw,
        scanner.response_model,
        scanner.error,
        scanner.done,
        scanner.output_chunks,
        scanner.first_token,
        scanner.received,
    )


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(stream) + 1) for position in at}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


STREAMS = {
    "openai": event(ROLE) + event(delta()) + event(delta("!")) + event(USAGE_CHUNK) + DONE,
    "usage null on every chunk": event(delta(usage=None)) * 3 + event(USAGE_CHUNK) + DONE,
    "many plain events": event(delta()) * 6 + event(delta(usage=None)) * 3 + event(USAGE_CHUNK) + event(delta()) + DONE,
    "empty events between plain ones": event(delta()) * 3
    + b"\n"
    + event(delta()) * 2
    + b"\n"
    + event(USAGE_CHUNK)
    + DONE,
    "a CR among plain events": event(delta()) * 3 + event(delta(), "\r\n\n") + event(delta()) * 3 + event(USAGE_CHUNK),
    "an error behind plain events": event(delta()) * 5
    + event({"error": {"message": "no"}})
    + event(USAGE_CHUNK)
    + DONE,
    "crlf": event(delta(), "\r\n\r\n") * 2 + event(USAGE_CHUNK, "\r\n\r\n") + event("[DONE]", "\r\n\r\n"),
    "cr": event(delta(), "\r\r") * 2 + event(USAGE_CHUNK, "\r\r") + event("[DONE]", "\r\r"),
    "mixed line ends": event(delta(), "\r\r\n") + event(USAGE_CHUNK, "\n\r") + event(delta(), "\n\r\n") + DONE,
    "removed event ends in CR CRLF": event(delta()) + event(USAGE_CHUNK, "\r\r\n") + event("[DONE]", "\r\n\n"),
    "no space after data": event(delta(), prefix="data:")
    + event(USAGE_CHUNK, prefix="data:")
    + event("[DONE]", prefix="data:"),
    "comments": b": keep-alive\n\n" + event(delta()) + b": OPENROUTER PROCESSING\n\n" + event(USAGE_CHUNK) + DONE,
    "id and event lines": b"id: 7\nevent: message\n"
    + event(delta())
    + b"retry: 3\n\n"
    + b"id: 8\n"
    + event(USAGE_CHUNK),
    "multi-line data": b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n' + DONE,
    "byte order mark": b"\xef\xbb\xbf" + event(delta()) + event(USAGE_CHUNK),
    "utf-8": event(delta("Grüße, 世界 🎉")) * 2 + event(USAGE_CHUNK) + DONE,
    "no done, no blank line at the end": event(delta()) + event(USAGE_CHUNK, "\n"),
    "azure filters": event(FILTER_CHUNK) + event(delta()) + event(USAGE_CHUNK) + DONE,
    "usage with choices": event(delta(usage=USAGE)) + event(delta(usage={**USAGE, "completion_tokens": 13})) + DONE,
    "groq": event(delta(x_groq={"id": "req_1", "usage": USAGE})) + DONE,
    "error in the middle": event(delta()) + event({"error": {"message": "overloaded", "code": 503}}),
    "looks like usage": event(delta('say "usage":{"prompt_tokens":1} and "error" and [DONE]')) * 2,
    "spaces": event(json.dumps(delta())) + event(json.dumps(USAGE_CHUNK)) + DONE,
    "text completions": event({"model": "gpt-3.5-turbo-instruct", "choices": [{"text": "Once", "index": 0}]}) + DONE,
    "not ours to judge": event("{broken") + event("5") + event("") + b"data\n\n" + event({"choices": 7, "usage": [1]}),
    "bad utf-8": b'data: {"choices":[{"delta":{"content":"\xff"}}],"usage":{"a":1}}\n\n' + DONE,
}


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_into_two_gives_the_same(name: str, strip: bool) -> None:
    stream = STREAMS[name]
    whole = scan([stream], strip=strip)

    for at in range(len(stream)):
        assert scan([stream[:at], stream[at:]], strip=strip) == whole, at


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte_gives_the_same(name: str, strip: bool) -> None:
    stream = STREAMS[name]

    assert scan([stream[at : at + 1] for at in range(len(stream))], strip=strip) == scan([stream], strip=strip)


lines = st.sampled_from(
    [b"data: ", b"data:", b": c", b"\n", b"\r", b"\r\n", b"\n\n", b"[DONE]", event(delta()), event(USAGE_CHUNK),
     event(delta(), "\r\r"), event(USAGE_CHUNK, "\r\r\n"), event(delta(usage=USAGE)), b'{"error":"no"}', b"\xe4\xb8"]
)  # fmt: skip


@given(st.lists(lines, max_size=14).map(b"".join), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
@example(b"\r\r\n" + event(USAGE_CHUNK, "\r\r"), [1, 2], True)
def test_any_chunking_of_any_bytes_gives_the_same(stream: bytes, at: list[int], strip: bool) -> None:
    assert scan(cut(stream, at), strip=strip) == scan([stream], strip=strip)


def scan_chunks(chunks: list[bytes], *, strip: bool) -> tuple[Seen, int]:
    """As `scan`, each asked first whether it passes in its frame; how many did."""
    scanner = UsageScanner(strip)
    forwarded = bytearray()
    passed = 0
    for chunk in chunks:
        if chunk and scanner.passes(b"%x\r\n%b\r\n" % (len(chunk), chunk), len(chunk)):
            forwarded += chunk
            passed += 1
        else:
            forwarded += scanner.feed(chunk)
    return seen(scanner, bytes(forwarded) + scanner.finish()), passed


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_chunks_that_pass_in_their_frames_teach_the_same(name: str, strip: bool) -> None:
    stream = STREAMS[name]
    ends = [at + 1 for at in range(len(stream)) if stream[at : at + 1] == b"\n"]

    assert scan_chunks(cut(stream, ends), strip=strip)[0] == scan([stream], strip=strip)
    assert scan_chunks(cut(stream, ends[1::2]), strip=strip)[0] == scan([stream], strip=strip)


def test_plain_events_pass_from_the_second_on() -> None:
    told, passed = scan_chunks([event(delta())] * 4 + [event(delta(usage=None)), event(USAGE_CHUNK), DONE], strip=True)

    assert passed == 4
    assert told == scan([event(delta()) * 4 + event(delta(usage=None)) + event(USAGE_CHUNK) + DONE], strip=True)


@given(st.lists(lines, max_size=14).map(b"".join), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
@example(event(delta()) + b"\n" + event(USAGE_CHUNK), [len(event(delta())), len(event(delta())) + 1], True)
def test_any_chunking_in_frames_gives_the_same(stream: bytes, at: list[int], strip: bool) -> None:
    assert scan_chunks(cut(stream, at), strip=strip)[0] == scan([stream], strip=strip)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_bytes_that_are_no_stream_pass_untouched(stream: bytes, at: list[int]) -> None:
    assert scan(cut(stream, at), strip=True).forwarded == stream


@pytest.mark.parametrize("name", STREAMS)
def test_without_stripping_each_chunk_goes_out_at_once(name: str) -> None:
    scanner = UsageScanner(strip_usage=False)

    for at in range(len(STREAMS[name])):
        chunk = STREAMS[name][at : at + 1]
        assert scanner.feed(chunk) is chunk
    assert scanner.finish() == b""


def test_only_the_usage_chunk_is_removed() -> None:
    for name in ("openai", "crlf", "cr", "azure filters", "no space after data", "comments", "utf-8", "spaces"):
        stream = STREAMS[name]
        start = stream.index(b'"usage"')
        seen = scan([stream], strip=True)

        assert seen.usage == USAGE, name
        assert len(stream) - len(seen.forwarded) == len(_event_around(stream, start)), name
        assert seen.forwarded == stream.replace(_event_around(stream, start), b""), name


def _event_around(stream: bytes, at: int) -> bytes:
    """The event, with its end, that holds position `at`: found by looking for `data:`, unlike the scanner does."""
    start = stream.rindex(b"data:", 0, at)
    following = stream.find(b"data:", at)
    return stream[start : following if following > 0 else len(stream)]


@pytest.mark.parametrize(
    "name", ["usage with choices", "groq", "error in the middle", "looks like usage", "not ours to judge", "bad utf-8"]
)
def test_what_is_not_the_usage_chunk_stays(name: str) -> None:
    assert scan([STREAMS[name]], strip=True).forwarded == STREAMS[name]


def test_the_last_usage_counts() -> None:
    assert scan([STREAMS["usage with choices"]], strip=True).usage == {**USAGE, "completion_tokens": 13}


def test_groq_hides_usage_in_a_field_of_its_own() -> None:
    assert scan([STREAMS["groq"]], strip=False).usage == USAGE


def test_text_that_looks_like_usage_is_text() -> None:
    seen = scan([STREAMS["looks like usage"]], strip=True)

    assert (seen.usage, seen.error, seen.done, seen.output_chunks) == (None, None, False, 2)


def test_an_error_event_is_seen_and_forwarded_even_with_usage_in_it() -> None:
    stream = event({"choices": [], "usage": USAGE, "error": {"message": "overloaded"}})

    seen = scan([stream], strip=True)

    assert (seen.error, seen.usage, seen.forwarded) == ({"message": "overloaded"}, USAGE, stream)


def test_an_error_that_is_text_becomes_an_object() -> None:
    assert scan([event({"error": "model crashed"})], strip=False).error == {"message": "model crashed"}


def test_a_null_error_is_none() -> None:
    assert scan([event(delta(error=None))], strip=False).error is None


def test_roles_filters_and_comments_are_not_the_first_token() -> None:
    scanner = UsageScanner(strip_usage=True)

    for quiet in (b": hello\n\n", event(FILTER_CHUNK), event(ROLE)):
        scanner.feed(quiet)
        assert not scanner.first_token

    scanner.feed(event(delta("H")))
    assert scanner.first_token


@pytest.mark.parametrize(
    "said",
    [{"reasoning_content": "Let me"}, {"refusal": "No"}, {"tool_calls": [{"index": 0}]}, {"audio": {"id": "a"}}],
)
def test_reasoning_refusals_tool_calls_and_audio_are_tokens_too(said: dict[str, Any]) -> None:
    assert scan([event({"choices": [{"delta": {"role": "assistant", **said}}]})], strip=False).first_token


def test_progress_counts_events_with_choices() -> None:
    stream = event(FILTER_CHUNK) + event(ROLE) + event(delta()) * 5 + event(USAGE_CHUNK) + DONE

    seen = scan([stream], strip=True)

    assert (seen.output_chunks, seen.done, seen.model) == (6, True, "gpt-4o-mini")


def test_an_ordinary_chunk_comes_back_as_the_same_object() -> None:
    scanner = UsageScanner(strip_usage=True)
    scanner.feed(event(delta()))
    chunk = event(delta(usage=None)) * 2

    assert scanner.feed(chunk) is chunk


def test_an_incomplete_event_is_held_until_it_is_complete() -> None:
    scanner = UsageScanner(strip_usage=True)
    chunk = event(delta())

    assert scanner.feed(chunk + chunk[:20]) == chunk
    assert scanner.feed(chunk[20:]) == chunk


def test_a_large_incomplete_event_is_passed_on_and_its_usage_still_read() -> None:
    scanner = UsageScanner(strip_usage=True)
    large = event({"choices": [], "padding": "x" * 3 * HELD_MAX, "usage": USAGE}) + event(delta())

    forwarded = [scanner.feed(large[at : at + 1400]) for at in range(0, len(large), 1400)]

    assert b"".join(forwarded) == large
    assert len(b"".join(forwarded[:60])) > HELD_MAX
    assert scanner.usage_raw == USAGE


@pytest.mark.parametrize("padding", range(HELD_MAX - 75, HELD_MAX - 45))
def test_the_largest_event_that_is_removed_does_not_depend_on_the_cut(padding: int) -> None:
    stream = event({"choices": [], "padding": "x" * padding, "usage": {"a": 1}}, "\r\n\r\n")

    whole = scan([stream], strip=True)

    for at in (1, len(stream) - 4, len(stream) - 3, len(stream) - 2, len(stream) - 1):
        assert scan([stream[:at], stream[at:]], strip=True) == whole


def test_an_endless_line_is_passed_on_without_being_kept() -> None:
    scanner = UsageScanner(strip_usage=True)
    megabyte = b"x" * 2**20

    sent = sum(len(scanner.feed(megabyte)) for _ in range(SCANNED_MAX // 2**20 + 4))
    sent += len(scanner.feed(b"\n\n" + event(USAGE_CHUNK)))

    assert sent == SCANNED_MAX + 4 * 2**20 + 2
    assert scanner.usage_raw == USAGE
    assert len(scanner._carry) == 0


def test_usage_and_model_of_a_json_answer() -> None:
    body = json.dumps({"model": "gpt-4o", "choices": [{"message": {"content": '"usage":{}'}}], "usage": USAGE}).encode()

    assert json_usage(body) == (USAGE, "gpt-4o")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"usage":null}', b'{"usage":7,"model":3}', b"\xff", b"[" * 9999]
)
def test_a_json_answer_without_usage_says_so(body: bytes) -> None:
    assert json_usage(body) == (None, "")


def test_an_answer_that_breaks_off_is_estimated_by_its_text_where_events_are_large() -> None:
    event = b'data: {"choices":[{"delta":{"content":"' + b"word " * 400 + b'"}}]}\n\n'
    scanner = UsageScanner(False)
    for _ in range(5):
        scanner.feed(event)

    assert scanner.output_chunks == 5
    assert 5 * 400 <= scanner.estimated_output(4.0) <= 5 * 600


def test_an_answer_that_breaks_off_is_at_least_a_token_an_event() -> None:
    scanner = UsageScanner(False)
    for _ in range(7):
        scanner.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')

    assert scanner.estimated_output(4.0) == 7

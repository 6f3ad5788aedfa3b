"""What goes over the wire in every scenario: one request, one answer, one stream, always the same bytes.

Fixed bytes let the load generator check each answer in full, so that an error or a lost chunk cannot look fast.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

MODEL = "bench"
"""The alias that clients ask for. Targets that do not translate pass it on as it is."""

INPUT_TOKENS = 212
OUTPUT_TOKENS = 50
STREAM_CHUNKS = 50
PACE_FIELD = b'"bench_pace_ms":'
"""A field no provider knows. That paced streams are paced at all shows that unknown fields reach the upstream."""

HOLD_FIELD = b'"bench_hold":true'
"""Such a stream stops after its first word until somebody posts `RELEASE` to the upstream itself."""
RELEASE = b'{"bench_release":true}'

USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
_IDENTITY = {"id": "chatcmpl-bench-0123456789abcdef", "created": 1_760_000_000, "model": "bench-upstream"}
_SYSTEM = (
    "You are the support assistant of a software company. Answer in two sentences, name the setting that "
    "matters, and say where the administrator finds it. If the question is about money, quote the invoice. "
    "Never guess a limit: ask for the version and the last line of the log first, and offer the way to a person."
)
_QUESTION = (
    "Our nightly export stopped on Tuesday with the message that the destination folder is full, although the "
    "volume shows forty gigabytes free. We moved the folder to another disk in spring and changed nothing since. "
    "The log has one line per file and ends in the middle of the customer table. Which limit did we hit, how can we "
    "see it before it stops the export again, and can the export go on from where it stopped instead of starting over? "
    "We run version 7.4 on two servers behind one address."
)
_ANSWER = (
    "The export stops at the quota of the folder, not at the size of the disk: raise “Largest export” under Storage, "
    "Limits, or empty the archive there. It goes on from the last complete file when you press Resume."
)
_FIRST_WORDS = (_ANSWER[:20].encode(), b" word00")
_WORDS = [f" word{number:02}" for number in range(STREAM_CHUNKS - 2)]


def request_body(*, stream: bool = False, pace_ms: int = 0, hold: bool = False, model: str = MODEL) -> bytes:
    """A chat request of about 1 KB, as an SDK would send it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}],
        "temperature": 0.2,
        "max_tokens": 200,
    }
    if stream:
        body["stream"] = True
    if pace_ms:
        body["bench_pace_ms"] = pace_ms
    if hold:
        body["bench_hold"] = True
    return orjson.dumps(body)


def chat_answer() -> bytes:
    """An answer of about 0.5 KB, with usage."""
    message = {"role": "assistant", "content": _ANSWER}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return orjson.dumps({**_IDENTITY, "object": "chat.completion", "choices": choices, "usage": USAGE})


def stream_events(*, include_usage: bool = False) -> list[bytes]:
    """Fifty chunks and the end mark; with `include_usage` one chunk more, as OpenAI sends it."""
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in _WORDS]
    events = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    events.append(_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if include_usage:
        events.append(_chunk([], usage=USAGE))
    return [*events, b"data: [DONE]\n\n"]


def says_a_word(body: bytes) -> bool:
    """Whether a piece of an answer holds its first words: a stream begins with a role, which says nothing."""
    return _FIRST_WORDS[0] in body or _FIRST_WORDS[1] in body


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    data = orjson.dumps({**_IDENTITY, "object": "chat.completion.chunk", "choices": choices, **more})
    return b"data: " + data + b"\n\n"


def expected_answer(*, stream: bool) -> tuple[int, int]:
    """Length and CRC-32 of the body that every target must give back to a caller who did not ask for usage."""
    body = b"".join(stream_events()) if stream else chat_answer()
    return len(body), zlib.crc32(body)


def meaning(*, stream: bool) -> str:
    """The words of the answer, for targets that write answers anew and so change their bytes."""
    return "".join(_WORDS) if stream else _ANSWER


def meaning_of(body: bytes, *, stream: bool) -> str:
    """The words of a body that came back.

    Raises:
        ValueError, LookupError, TypeError: it is no such answer.
    """
    if not stream:
        return str(orjson.loads(body)["choices"][0]["message"]["content"])
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]":
        raise ValueError(f"the stream ends with {events[-1]!r}")
    choices = [choice for event in events[:-1] for choice in orjson.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def http_chunk(piece: bytes) -> bytes:
    """`piece` in the chunked transfer encoding."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_HTTP_CHUNK = b"0\r\n\r\n"

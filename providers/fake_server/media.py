"""Images, speech, transcription, moderation and reranking of the fake provider: the same for the same question."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from providers.adapters.types import JSONObject
from providers.fake_server.answers import CREATED, count_tokens

BYTES_A_SECOND = 32_000
"""Of the sound that it hears."""


def read_form(content_type: str, raw: bytes) -> JSONObject:
    """A form's fields by name; of a file its size and digest."""
    head = b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
    if not message.is_multipart():
        raise ValueError("The body is no multipart form.")
    fields: JSONObject = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        content = content if isinstance(content, bytes) else b""
        if part.get_filename() is None:
            fields[name] = content.decode()
        else:
            digest = hashlib.sha256(content).hexdigest()
            fields[name] = {"filename": part.get_filename(), "bytes": len(content), "sha256": digest}
    return fields


def images(body: JSONObject) -> JSONObject:
    number = int(body.get("n") or 1)
    content = base64.b64encode(str(body.get("prompt")).encode()).decode()
    answer: JSONObject = {"created": CREATED, "data": [{"b64_json": content} for _ in range(number)]}
    if "gpt-image" in str(body.get("model")):
        text, made = count_tokens(str(body.get("prompt"))), 1000 * number
        details = {"text_tokens": text, "image_tokens": 0}
        answer |= {"quality": "high", "size": "1024x1024"}
        answer["usage"] = {
            "input_tokens": text, "output_tokens": made, "total_tokens": text + made, "input_tokens_details": details,
        }  # fmt: skip
    return answer


def speech(body: JSONObject) -> Iterator[bytes]:
    """Sound, a piece for each word."""
    yield b"ID3\x04"
    for word in str(body.get("input")).split():
        yield hashlib.sha256(word.encode()).digest() * 8


def spoken_events(body: JSONObject) -> Iterator[bytes]:
    """The same as events, with what it used in the last one: fifty tokens for a word."""
    for piece in speech(body):
        yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    heard, said = count_tokens(str(body.get("input"))), 50 * len(str(body.get("input")).split())
    usage = {"input_tokens": heard, "output_tokens": said, "total_tokens": heard + said}
    yield _event({"type": "speech.audio.done", "usage": usage})


def _event(event: JSONObject) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def transcription(body: JSONObject) -> JSONObject:
    heard: Any = body.get("file")
    seconds = -(-heard["bytes"] // BYTES_A_SECOND)
    return {"text": f"{seconds} seconds of sound", "usage": {"type": "duration", "seconds": seconds}}


def moderation(body: JSONObject) -> JSONObject:
    result = {"flagged": "hate" in str(body.get("input")), "categories": {}, "category_scores": {}}
    return {"id": "modr-fake", "model": str(body.get("model")), "results": [result]}


def ranking(body: JSONObject) -> JSONObject:
    """Documents that share more words with the query come first."""
    words = set(str(body.get("query")).lower().split())
    scores = [len(words & set(str(each).lower().split())) for each in body.get("documents") or []]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return {
        "id": "rerank-fake",
        "results": [{"index": index, "relevance_score": scores[index] / max(1, len(words))} for index in order],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


JSON_ANSWERS = {
    "/images/generations": images,
    "/images/edits": images,
    "/images/variations": images,
    "/audio/transcriptions": transcription,
    "/audio/translations": transcription,
    "/moderations": moderation,
    "/rerank": ranking,
}

"""Usage as Gemini reports it: https://ai.google.dev/api/generate-content#UsageMetadata.

Cached tokens are part of the prompt; thoughts, and what tools read, are counted beside it and the candidates.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from providers.adapters.attachments import attached_kinds
from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.dialects._openai_wire import count
from providers.adapters.dialects._searches import NOTED, search_units
from providers.adapters.dialects.texts import texts_of_request
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Usage

_PICTURES = ("IMAGE", "VIDEO")
_DRAWN = "image_token"
_SEEN = frozenset({"image", "video"})
_DETAILS = frozenset({"promptTokensDetails", "toolUsePromptTokensDetails", "cacheTokensDetails"})
_ELSEWHERE = (b'"fileData"', b'"file_data"', b'"fileUri"', b'"file_uri"', b'"cachedContent"', b'"cached_content"')
"""What is not in the request itself may be of any kind."""


def read_usage(raw: JSONObject) -> Usage:
    """Raises MalformedUsageError."""
    units = search_units(raw) if NOTED in raw else ()
    raw = plain_names(raw)
    prompt, tool_prompt = count(raw, "promptTokenCount"), count(raw, "toolUsePromptTokenCount")
    cached = count(raw, "cachedContentTokenCount")
    output, thoughts = count(raw, "candidatesTokenCount"), count(raw, "thoughtsTokenCount")
    total = count(raw, "totalTokenCount")
    reads = _by_kind(raw, "promptTokensDetails"), _by_kind(raw, "toolUsePromptTokensDetails")
    cache_reads, said = _by_kind(raw, "cacheTokensDetails"), _by_kind(raw, "candidatesTokensDetails")
    audio = _uncached("AUDIO", reads, cache_reads)
    pictures = sum(_uncached(kind, reads, cache_reads) for kind in _PICTURES)
    if cached and not cache_reads:
        # Nobody says what was cached; text comes first in most prompts.
        media = max(0, prompt + tool_prompt - cached)
        audio = min(audio, media)
        pictures = min(pictures, media - audio)
    text, spoken = prompt + tool_prompt - cached - audio - pictures, said.get("AUDIO", 0)
    drawn = sum(said.get(kind, 0) for kind in _PICTURES)
    if text < 0 or output < spoken + drawn:
        # Details that exceed their own total cannot be split: bill the totals, flag the row.
        return Usage(input=prompt + tool_prompt, output=output, reasoning=thoughts, consistent=False)
    return Usage(
        input=text,
        cache_read=cached,
        audio_input=audio,
        image_input=pictures,
        output=output - spoken,
        reasoning=thoughts,
        audio_output=spoken,
        # Also among `output`, for whether they have a price of their own is known to the price alone.
        units=(*units, (_DRAWN, drawn)) if drawn else units,
        consistent=total in {0, prompt + tool_prompt + output + thoughts},
    )


def apportioned(usage: Usage, raw: JSONObject, body: bytes, chars_per_token: float) -> Usage:
    """`usage` of a request whose tokens nobody told apart, with what is attached in its own bucket; the sum stays.

    Images, films and sound are what is left when its text has been subtracted, where they are all of one kind. What
    else a request may hold cannot be told apart: then all of it stays text.
    """
    if "promptTokensDetails" in raw or not usage.consistent or not _DETAILS.isdisjoint(plain_names(raw)):
        return usage
    kinds = attached_kinds(body)
    bucket = "audio_input" if kinds == {"audio"} else "image_input" if kinds and kinds <= _SEEN else ""
    asked = texts_of_request(body, longest=len(body)) if bucket else None
    if asked is None or any(mark in body for mark in _ELSEWHERE):
        return usage
    # What was cached most likely was its beginning, which is text in most prompts.
    text = max(0, _most_tokens("".join(asked.texts), chars_per_token) - usage.cache_read)
    attached = max(0, usage.input - text)
    return msgspec.structs.replace(usage, **{"input": usage.input - attached, bucket: attached})


def _most_tokens(text: str, chars_per_token: float) -> int:
    """Of a letter beyond ASCII one, so that nobody pays for an image where there may have been text."""
    plain = len(text.encode("ascii", "ignore"))
    return math.ceil(plain / chars_per_token) + len(text) - plain


def _uncached(kind: str, reads: tuple[dict[str, int], ...], cache_reads: dict[str, int]) -> int:
    return max(0, sum(read.get(kind, 0) for read in reads) - cache_reads.get(kind, 0))


def _by_kind(raw: JSONObject, name: str) -> dict[str, int]:
    """Tokens of each modality."""
    details: Any = raw.get(name)
    if details is None:
        return {}
    if not isinstance(details, list) or not all(isinstance(detail, dict) for detail in details):
        raise MalformedUsageError(f"{name} is not a list of objects")
    counts: dict[str, int] = {}
    for detail in map(plain_names, details):
        kind = str(detail.get("modality", ""))
        counts[kind] = counts.get(kind, 0) + count(detail, "tokenCount")
    return counts


def write_usage(usage: Usage) -> JSONObject:
    written = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output + usage.audio_output,
        "totalTokenCount": usage.total_tokens,
    }
    parts = {"cachedContentTokenCount": usage.cache_read, "thoughtsTokenCount": usage.reasoning}
    written |= {name: tokens for name, tokens in parts.items() if tokens}
    details = {"AUDIO": usage.audio_input, "IMAGE": usage.image_input}
    text, drawn = usage.input_tokens - sum(details.values()), dict(usage.units).get(_DRAWN, 0)
    return {
        **written,
        **_details("promptTokensDetails", {"TEXT": text, **details}),
        **_details(
            "candidatesTokensDetails", {"TEXT": usage.output - drawn, "AUDIO": usage.audio_output, "IMAGE": drawn}
        ),
    }


def _details(name: str, counts: dict[str, int]) -> JSONObject:
    found = [{"modality": kind, "tokenCount": tokens} for kind, tokens in counts.items() if tokens]
    return {name: found} if found else {}

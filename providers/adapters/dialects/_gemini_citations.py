"""Where Gemini's answers come from: `groundingMetadata` and `citationMetadata`. Their positions count bytes of UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from providers.adapters.dialects._gemini_fields import DIALECT, plain_names
from providers.adapters.dialects.conversation import Block, Citation, Text
from providers.adapters.types import JSONObject

_PLACES = ("web", "retrievedContext", "maps")


def read_citations(candidate: JSONObject, blocks: Sequence[Block]) -> Iterator[tuple[int, Citation]]:
    """Citations, each with the number of its block among `blocks`."""
    texts = {number: block.text for number, block in enumerate(blocks) if isinstance(block, Text)}
    if not texts:
        return
    grounding = _object(candidate.get("groundingMetadata"))
    places = [_place(chunk) for chunk in _objects(grounding.get("groundingChunks"))]
    for support in _objects(grounding.get("groundingSupports")):
        yield from _supported(support, places, texts)
    first = next(iter(texts))
    for cited in _objects(_object(candidate.get("citationMetadata")).get("citations")):
        start, end = _span(cited, texts[first])
        yield first, Citation(_text(cited.get("uri")), _text(cited.get("title")), "", start, end, cited, DIALECT)


def _supported(
    support: JSONObject, places: list[tuple[str, str]], texts: Mapping[int, str]
) -> Iterator[tuple[int, Citation]]:
    segment = _object(support.get("segment"))
    number = segment.get("partIndex")
    if not isinstance(number, int) or number not in texts:
        number = next(iter(texts))
    start, end = _span(segment, texts[number])
    indices = support.get("groundingChunkIndices")
    for index in indices if isinstance(indices, list) else ():
        if isinstance(index, int) and 0 <= index < len(places):
            url, title = places[index]
            yield number, Citation(url, title, "", start, end, dialect=DIALECT)


def _place(chunk: JSONObject) -> tuple[str, str]:
    place = next((_object(chunk[kind]) for kind in _PLACES if kind in chunk), {})
    return _text(place.get("uri")), _text(place.get("title"))


def _span(segment: JSONObject, text: str) -> tuple[int | None, int | None]:
    """Positions in characters; a start of 0 is left out by the API."""
    start, end = segment.get("startIndex", 0), segment.get("endIndex")
    if not isinstance(start, int) or not isinstance(end, int):
        return None, None
    if text.isascii():
        return start, end
    raw = text.encode()
    return len(raw[:start].decode(errors="ignore")), len(raw[:end].decode(errors="ignore"))


def write_grounding(texts: Mapping[int, tuple[str, Sequence[Citation]]]) -> JSONObject:
    """`groundingMetadata` of texts and their citations, by the numbers of their parts; empty if there are none."""
    places: dict[tuple[str, str], int] = {}
    supports = []
    for number, (text, citations) in texts.items():
        for citation in citations:
            place = places.setdefault((citation.url, citation.title), len(places))
            if citation.end is None:
                continue
            start = citation.start or 0
            segment: JSONObject = {
                "startIndex": len(text[:start].encode()),
                "endIndex": len(text[: citation.end].encode()),
                "text": text[start : citation.end],
            }
            if number:
                segment["partIndex"] = number
            supports.append({"segment": segment, "groundingChunkIndices": [place]})
    if not places:
        return {}
    chunks = [{"web": {"uri": url, "title": title}} for url, title in places]
    return {"groundingChunks": chunks, "groundingSupports": supports}


def _object(value: Any) -> JSONObject:
    return plain_names(value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JSONObject]:
    return [plain_names(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

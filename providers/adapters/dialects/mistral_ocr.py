"""Mistral's reading of documents: https://docs.mistral.ai/api/#tag/ocr. Billed by the page; it is not translated."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._openai_wire import OpenAIWire, count
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Operation, Units, Usage

_ABSENT = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PAGES = "pages_processed"


class _Asked(msgspec.Struct):
    """Unparsed: of a form only matters whether there is one."""

    pages: msgspec.Raw = _ABSENT
    bbox_annotation_format: msgspec.Raw = _ABSENT
    document_annotation_format: msgspec.Raw = _ABSENT


class _Answer(msgspec.Struct):
    pages: list[msgspec.Raw] | None = None
    usage_info: Any = None
    model: Any = None


class _Image(msgspec.Struct):
    image_annotation: msgspec.Raw = _ABSENT


class _Page(msgspec.Struct):
    images: list[_Image] | None = None


class _Annotated(msgspec.Struct):
    pages: list[_Page] = []
    document_annotation: msgspec.Raw = _ABSENT


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_pages = msgspec.json.Decoder(list[int]).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_annotated = msgspec.json.Decoder(_Annotated).decode


class MistralOcr(OpenAIWire):
    """A document in, its pages as text out. Pages that are also to be annotated have a price of their own."""

    name = "mistral.ocr"
    operation: ClassVar[Operation] = Operation.OCR
    measures = True

    def asked_units(self, body: bytes) -> Units:
        """The pages that are asked for by number; of a whole document nobody here knows how many there are."""
        asked = _decode_asked(body)
        is_annotated = asked.bbox_annotation_format != _ABSENT or asked.document_annotation_format != _ABSENT
        return (("page:annotated" if is_annotated else "page", _number(asked.pages)),)

    def answered_units(self, body: bytes) -> Units:
        """Its pages. That annotations were asked for shows where there are any."""
        try:
            answer = _decode_annotated(body)
        except _UNREADABLE:
            return ()
        annotations = [image.image_annotation for page in answer.pages for image in page.images or ()]
        is_annotated = any(each != _ABSENT for each in (answer.document_annotation, *annotations))
        return (("page:annotated" if is_annotated else "page", len(answer.pages)),)

    def used_units(self, asked: Units, said: Units) -> Units:
        """As many as the provider says, of the kind that was asked for."""
        return ((asked[0][0], said[0][1]),) if said and asked else said or asked

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        try:
            answer = _decode_answer(body)
        except _UNREADABLE:
            return None, ""
        raw = answer.usage_info if isinstance(answer.usage_info, dict) else None
        if answer.pages is not None and _PAGES not in (raw or {}):
            raw = {**(raw or {}), _PAGES: len(answer.pages)}
        return raw, answer.model if isinstance(answer.model, str) else ""

    def usage(self, raw: JSONObject) -> Usage:
        if raw.get(_PAGES) is None:
            raise MalformedUsageError(f"{_PAGES} is missing")
        return Usage(units=(("page", count(raw, _PAGES)),))

    def estimated(self, usage: Usage, asked: Units) -> Usage:
        # The answer's text and the document's bytes are no tokens that anybody bills.
        return Usage(units=asked)


def _number(pages: msgspec.Raw) -> int:
    try:
        return max(1, len(_decode_pages(pages)))
    except msgspec.MsgspecError:
        return 1

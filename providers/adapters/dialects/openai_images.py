"""OpenAI's images: https://platform.openai.com/docs/api-reference/images. Made, edited, and varied."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._ending_scanner import EndingScanner
from providers.adapters.dialects._forms import FormWire, is_json, read_form
from providers.adapters.dialects._media_usage import read_tokens
from providers.adapters.dialects._openai_wire import OpenAIWire, count, member
from providers.adapters.dialects.base import StreamScanner
from providers.adapters.types import JSONObject, Operation, Units, Usage

ENDS = (b"image_generation.completed", b"image_edit.completed")
_LABEL = re.compile(r"[a-z0-9._-]{1,20}")
_UNSAID = ("", "auto")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    model: Any = None
    quality: Any = None
    size: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_request = msgspec.json.Decoder(dict[str, Any]).decode


class OpenAIImages(OpenAIWire):
    name = "openai.images"
    operation: ClassVar[Operation] = Operation.IMAGE_GENERATION
    measures = True
    counts_units = True

    def asked_units(self, body: bytes) -> Units:
        return images_of(self._fields(body))

    def used_units(self, asked: Units, said: Units) -> Units:
        """As many as came; of the quality and size that the answer says, else the request."""
        if said and said[0][0] == "image" and asked:
            return ((asked[0][0], said[0][1]), *said[1:])
        return said or asked

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        """What was used, with the number of images that came, their quality and size."""
        try:
            answer = _decode_answer(body)
        except _UNREADABLE:
            return None, ""
        if answer.data is None:
            return None, ""
        said = {"quality": answer.quality, "size": answer.size, "usage": answer.usage}
        return image_usage(said, len(answer.data)), answer.model if isinstance(answer.model, str) else ""

    def usage(self, raw: JSONObject) -> Usage:
        units = images_of({"n": count(raw, "images"), "quality": raw.get("quality"), "size": raw.get("size")})
        return read_tokens(raw, units if count(raw, "images") else ())

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        return EndingScanner(ENDS, _one_more)

    def _fields(self, body: bytes) -> JSONObject:
        return _decode_request(body)


class OpenAIImageEdits(FormWire, OpenAIImages):
    name = "openai.image_edits"

    def _fields(self, body: bytes) -> JSONObject:
        return _decode_request(body) if is_json(body) else dict(read_form(body).values())


class OpenAIImageVariations(OpenAIImageEdits):
    name = "openai.image_variations"


def images_of(fields: JSONObject) -> Units:
    """How many images are asked for, or came: `image:high:1024x1024`, as far as it is said."""
    labels = [_label(fields.get("quality")), _label(fields.get("size")) or _by_sides(fields)]
    return ((":".join(["image", *filter(None, labels)]), _number(fields.get("n"))),)


def _label(value: Any) -> str:
    text = value.lower() if isinstance(value, str) else ""
    return text if text not in _UNSAID and _LABEL.fullmatch(text) else ""


def _by_sides(fields: JSONObject) -> str:
    width, height = fields.get("width"), fields.get("height")
    return f"{width}x{height}" if isinstance(width, int) and isinstance(height, int) else ""


def _number(value: Any) -> int:
    number = int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else 1
    return min(max(number, 1), 10_000)


def image_usage(said: JSONObject, images: int) -> JSONObject:
    labels = {name: value for name in ("quality", "size") if isinstance(value := said.get(name), str)}
    return {**member(said, "usage"), "images": images, **labels}


def _one_more(event: JSONObject, before: JSONObject | None) -> JSONObject:
    """Usage of a stream so far, of which each image ends with an event of its own."""
    usage = image_usage(event, 1)
    if before is None:
        return usage
    summed = {name: before.get(name, 0) + usage.get(name, 0) for name in ("images", "input_tokens", "output_tokens")}
    return {**before, **usage, **summed}

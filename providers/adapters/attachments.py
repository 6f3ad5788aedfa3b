"""How much of a request is images, files and sound in base64, which are not text. No I/O, nothing about any one provider.

Only what stands where providers look for attachments counts as one. Anywhere else base64 is text to a model, and costs
what text costs: a prompt, a tool's description, what a tool was called with.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import msgspec

ATTACHMENT_MIN = 1024
"""Base64 shorter than this counts as text; longer is an image, a file or sound."""

_MESSAGES = ("messages", "input", "contents")
_PARTS = ("content", "parts")
# Where a part has its attachment: in the field itself, or in one of the object there.
_PLACES = {
    "image_url": "url",
    "file": "file_data",
    "input_audio": "data",
    "source": "data",
    "inlineData": "data",
    "inline_data": "data",
    "file_data": "",
    "document_url": "",
}
_KINDS = {"image_url": "image", "input_audio": "audio"}
"""What can stand in a place that takes one kind alone."""
_LETTERS = (string.ascii_letters + string.digits + "+/=").encode()
_URL_SAFE = frozenset({"inlineData", "inline_data"})
"""Where the other alphabet of base64 is understood too, which has `-` and `_`."""
_MEDIA_TYPES = ("media_type", "mimeType", "mime_type")

LONGEST_HEAD = 256
"""`data:image/png;base64,`, and whatever may be said there of the type."""

_decode = msgspec.json.Decoder().decode


def attached_bytes(body: bytes) -> int:
    """The length of all attachments in `body`, a JSON object, that are too long to be text."""
    if len(body) <= ATTACHMENT_MIN or not _may_have_attachments(body):
        return 0
    request = _decode(body)
    lengths = [length for message in _messages(request) for length in _of_message(message)]
    to_be_read = [length for part in _objects([request.get("document")]) for length in _of_part(part)]
    return sum([length for length in (*lengths, *to_be_read) if length > ATTACHMENT_MIN])


def attached_kinds(body: bytes) -> frozenset[str]:
    """What is attached to a request: `image`, `audio`, `video`, or another first word of a media type; `?`: unknown."""
    if not _may_have_attachments(body):
        return frozenset()
    try:
        request = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()
    parts = [part for message in _messages(request) for part in _parts(message)]
    return frozenset([kind for part in parts for place in _PLACES if (kind := _kind(part, place))])


def _may_have_attachments(body: bytes) -> bool:
    # rfind: on long bodies it takes a third of the time of `in`.
    return body.rfind(b";base64,") >= 0 or body.rfind(b'"data"') >= 0


def _messages(request: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(request, dict):
        return
    for name in _MESSAGES:
        yield from _objects(request.get(name))
    # What is to be embedded has no list of messages around it.
    for asked in (request, *_objects(request.get("requests"))):
        yield from _objects([asked.get("content")])


def _of_message(message: dict[str, Any]) -> Iterator[int]:
    for part in _parts(message):
        yield from _of_part(part)


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in _PARTS:
        for part in _objects(message.get(name)):
            yield part
            # The result of a tool has parts of its own.
            yield from _objects(part.get("content"))


def _kind(part: dict[str, Any], place: str) -> str:
    """Empty: nothing is attached there."""
    value = part.get(place)
    if value is None:
        return ""
    if place in _KINDS:
        return _KINDS[place]
    holder = value if isinstance(value, dict) else {}
    said = next((each for name in _MEDIA_TYPES if isinstance(each := holder.get(name), str)), "")
    content = holder.get(_PLACES[place], "") if holder else value
    if not said and isinstance(content, str) and content.startswith("data:"):
        said = content[len("data:") : LONGEST_HEAD]
    return said.partition("/")[0] if "/" in said else "?"


def _of_part(part: dict[str, Any]) -> Iterator[int]:
    for place, name in _PLACES.items():
        value = part.get(place)
        if isinstance(value, dict) and name:
            if not _is_text(value):
                yield _base64_length(value.get(name), url_safe=place in _URL_SAFE)
        elif value is not None:
            yield _base64_length(value)


def _is_text(holder: dict[str, Any]) -> bool:
    """A document may be text as it stands, or in base64: a model reads either."""
    media_types = [value for name in _MEDIA_TYPES if isinstance(value := holder.get(name), str)]
    return holder.get("type") == "text" or any(value.startswith("text/") for value in media_types)


def _base64_length(value: object, *, url_safe: bool = False) -> int:
    """Text that says it is base64 has a space, a full stop or another such sign somewhere: it stays text."""
    if not isinstance(value, str) or len(value) <= ATTACHMENT_MIN or value.startswith("data:text/"):
        return 0
    if not value.isascii() or " " in value:
        return 0
    head, mark, content = value.partition(";base64,")
    if len(head) > LONGEST_HEAD and mark:
        return 0
    strange = (content if mark else value).encode().translate(None, _LETTERS + b"-_" if url_safe else _LETTERS)
    return 0 if strange else len(value)


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

"""Thoughts in OpenAI-style messages, by the several names that servers have for them.

`reasoning_content` and `reasoning` hold the plain text. `reasoning_details` is a list of what providers need to get back
unchanged; its `format` says whose that is, and here that is the name of a dialect.
"""

from __future__ import annotations

from typing import Any

import msgspec

from providers.adapters.dialects.conversation import Reasoning
from providers.adapters.types import JSONObject

DIALECT = "openai.chat"
TEXT_FIELDS = ("reasoning_content", "reasoning")


def text_of(message: JSONObject) -> str:
    """The plain thoughts of a message or a delta."""
    for name in TEXT_FIELDS:
        if isinstance(value := message.get(name), str) and value:
            return value
    return ""


def details_of(message: JSONObject) -> list[JSONObject]:
    """The signed or encrypted thoughts; what is of the wrong type is not there."""
    details = message.get("reasoning_details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def read_reasoning(message: JSONObject) -> tuple[Reasoning, ...]:
    """All thoughts of a whole message."""
    text = text_of(message)
    blocks: dict[Any, Reasoning] = {}
    for number, detail in enumerate(details_of(message)):
        # Pieces of the same thought have the same index.
        index = detail.get("index")
        key = index if isinstance(index, int) else f"#{number}"
        blocks[key] = with_detail(blocks[key], detail) if key in blocks else from_detail(detail)
    if not blocks:
        return (Reasoning(text),) if text else ()
    if text and not any(block.text for block in blocks.values()):
        first = next(iter(blocks))
        blocks[first] = msgspec.structs.replace(blocks[first], text=text)
    return tuple(blocks.values())


def from_detail(detail: JSONObject) -> Reasoning:
    """A block with the whole of one detail."""
    owner = _text(detail, "format")
    return Reasoning(
        text=detail_text(detail),
        signature=_text(detail, "signature"),
        encrypted=_text(detail, "data"),
        id=_text(detail, "id"),
        summary=detail.get("type") == "reasoning.summary",
        # What another server calls its format goes back to where it came from by this dialect.
        dialect=owner if "." in owner else DIALECT,
    )


def with_detail(block: Reasoning, detail: JSONObject) -> Reasoning:
    return msgspec.structs.replace(
        block,
        text=block.text + detail_text(detail),
        signature=block.signature + _text(detail, "signature"),
        encrypted=block.encrypted + _text(detail, "data"),
        id=block.id or _text(detail, "id"),
    )


def detail_text(detail: JSONObject) -> str:
    return _text(detail, "text") or _text(detail, "summary")


def write_details(block: Reasoning, index: int) -> list[JSONObject]:
    """What must come back unchanged; nothing for thoughts that nobody signed."""
    if not (block.signature or block.encrypted):
        return []
    common: JSONObject = {"index": index}
    if block.dialect != DIALECT:
        common["format"] = block.dialect
    if block.id:
        common["id"] = block.id
    signature = {"signature": block.signature} if block.signature else {}
    details: list[JSONObject] = []
    if block.text or block.signature:
        kind, name = ("reasoning.summary", "summary") if block.summary else ("reasoning.text", "text")
        details.append({"type": kind, name: block.text, **signature, **common})
    if block.encrypted:
        details.append({"type": "reasoning.encrypted", "data": block.encrypted, **common})
    return details


def write_reasoning(blocks: tuple[Reasoning, ...]) -> JSONObject:
    """The fields of a whole message."""
    text = "".join(block.text for block in blocks)
    details = [detail for index, block in enumerate(blocks) for detail in write_details(block, index)]
    return {
        **({"reasoning_content": text} if text else {}),
        **({"reasoning_details": details} if details else {}),
    }


def _text(detail: JSONObject, name: str) -> str:
    value = detail.get(name)
    return value if isinstance(value, str) else ""

"""The content blocks of Anthropic's Messages, read and written one by one."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Any

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._messages_thoughts import read_redacted, read_thinking, write_thoughts
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    CacheHint,
    Citation,
    File,
    Foreign,
    Image,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
    ToolResult,
)
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

DIALECT = "anthropic.messages"
PDF = "application/pdf"
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
# How the base64 of a file begins, for those who do not say what it is.
_BEGINNINGS = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi0": PDF,
}
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_CALL_ID = re.compile(r"[^a-zA-Z0-9_-]")
_RESULT_PARTS = frozenset({"text", "image", "document"})

_decode = msgspec.json.Decoder(Any).decode


# ── reading ──


def read_blocks(fields: Fields, name: str) -> tuple[Block, ...]:
    """The content called `name`: a string, or a list of blocks."""
    value = fields.get(name)
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, list):
        raise fields.wrong(name, "a string or a list of content blocks")
    return tuple(read_block(block) for block in fields.objects(name))


def read_block(block: Fields) -> Block:
    match block.required_text("type"):
        case "text":
            return _text(block)
        case "image":
            return _image(block)
        case "document":
            return _document(block)
        case "tool_use" if block.get("toolset_name") is None:
            return _call(block)
        case "tool_result":
            return _result(block)
        case "thinking":
            return read_thinking(block.text("thinking"), block.text("signature"), DIALECT)
        case "redacted_thinking":
            return read_redacted(block.required_text("data"), DIALECT)
        case _:
            return Foreign(DIALECT, block.raw)


def read_cache(fields: Fields) -> CacheHint | None:
    hint = fields.object("cache_control")
    return None if hint is None else CacheHint(hint.text("ttl"))


def read_citation(raw: JSONObject) -> Citation:
    """What every protocol understands of it; the whole of it stays with it."""
    return Citation(
        url=_string(raw, "url") or _string(raw, "source"),
        title=_string(raw, "title") or _string(raw, "document_title"),
        cited_text=_string(raw, "cited_text"),
        raw=raw,
        dialect=DIALECT,
    )


def _text(block: Fields) -> Text:
    citations = tuple(read_citation(citation.raw) for citation in block.objects("citations"))
    return Text(block.required_text("text"), citations, read_cache(block))


def _image(block: Fields) -> Image | Foreign:
    source = _source(block.required_object("source"))
    return Foreign(DIALECT, block.raw) if source is None else Image(source, cache=read_cache(block))


def _document(block: Fields) -> File | Foreign:
    given = block.required_object("source")
    citations = block.object("citations")
    file = File(
        Source(),
        name=block.text("title"),
        citations=citations is not None and citations.boolean("enabled") is True,
        cache=read_cache(block),
    )
    if block.text("context"):
        return Foreign(DIALECT, block.raw)
    if given.text("type") == "text":
        return msgspec.structs.replace(file, text=given.required_text("data"))
    source = _source(given)
    if source is None:
        return Foreign(DIALECT, block.raw)
    if source.url:
        source = msgspec.structs.replace(source, media_type=PDF)
    return msgspec.structs.replace(file, source=source)


def _source(source: Fields) -> Source | None:
    """None for a kind that only Anthropic has."""
    match source.required_text("type"):
        case "base64":
            return Source(data=source.required_text("data"), media_type=source.text("media_type"))
        case "url":
            return Source(url=source.required_text("url"))
        case "file":
            return Source(file_id=source.required_text("file_id"))
        case _:
            return None


def _call(block: Fields) -> ToolCall:
    given = block.json_object("input") or {}
    arguments = msgspec.json.encode(given).decode()
    return ToolCall(block.required_text("id"), block.required_text("name"), arguments, cache=read_cache(block))


def _result(block: Fields) -> ToolResult | Foreign:
    content: list[Text | Image | File | Audio] = []
    for part in read_blocks(block, "content") if block.get("content") is not None else ():
        if not isinstance(part, (Text, Image, File)):
            return Foreign(DIALECT, block.raw)
        content.append(part)
    return ToolResult(
        block.required_text("tool_use_id"),
        tuple(content),
        is_error=block.boolean("is_error") is True,
        cache=read_cache(block),
    )


def _string(raw: JSONObject, name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


# ── writing ──


class BlockWriter:
    """Writes the blocks of one request. `native`: the caller speaks this dialect, so that its file ids are ours."""

    def __init__(self, *, native: bool) -> None:
        self._native = native
        self.dropped: list[str] = []
        """What was left out, by the caller's names."""

    def blocks(self, blocks: tuple[Block, ...]) -> list[JSONObject]:
        written: list[JSONObject] = []
        for block in blocks:
            written += self._block(block)
        return written

    def _block(self, block: Block) -> list[JSONObject]:
        match block:
            case Text() | Refusal():
                # Empty texts, which others send beside calls, are refused.
                return [write_text(block)] if block.text else []
            case Image():
                return [self._image(block)]
            case File():
                return [self._document(block)]
            case ToolCall():
                return [self._call(block)]
            case ToolResult():
                return [self._result(block)]
            case Reasoning():
                return self._thoughts(block)
            case Audio() if block.transcript:
                return [{"type": "text", "text": block.transcript}]
            case Foreign() if block.dialect == DIALECT:
                return [block.raw]
            case _:
                raise inexpressible("messages", f"a block of type `{_kind(block)}`")

    def _thoughts(self, block: Reasoning) -> list[JSONObject]:
        """Those of this dialect alone: it refuses what it has not signed itself."""
        if block.dialect != DIALECT:
            self.dropped.append("reasoning")
            return []
        return write_thoughts(block, DIALECT)

    def _image(self, image: Image) -> JSONObject:
        source = image.source
        if source.data:
            media_type = source.media_type if source.media_type in IMAGE_TYPES else _guessed(source.data)
            if media_type not in IMAGE_TYPES:
                raise inexpressible("messages", f"an image of type `{source.media_type or 'unknown'}`")
            source = msgspec.structs.replace(source, media_type=media_type)
        if image.detail not in {"", "auto"}:
            self.dropped.append("detail")
        return {"type": "image", "source": self._source(source), **write_cache(image.cache)}

    def _document(self, file: File) -> JSONObject:
        return {
            "type": "document",
            "source": self._document_source(file),
            **({"title": file.name} if file.name else {}),
            **({"citations": {"enabled": True}} if file.citations else {}),
            **write_cache(file.cache),
        }

    def _document_source(self, file: File) -> JSONObject:
        source = file.source
        media_type = source.media_type or (_guessed(source.data) if source.data else "")
        if file.text or source == Source():
            return {"type": "text", "media_type": "text/plain", "data": file.text}
        if media_type.startswith("text/") and source.data:
            return {"type": "text", "media_type": "text/plain", "data": _decoded(source.data)}
        if source.data and media_type != PDF:
            raise inexpressible("messages", f"a file of type `{media_type or 'unknown'}`")
        return self._source(msgspec.structs.replace(source, media_type=media_type))

    def _source(self, source: Source) -> JSONObject:
        if source.data:
            return {"type": "base64", "media_type": source.media_type, "data": source.data}
        if source.url:
            return {"type": "url", "url": source.url}
        if not self._native:
            raise inexpressible("messages", "a file that is stored at another provider")
        return {"type": "file", "file_id": source.file_id}

    def _call(self, call: ToolCall) -> JSONObject:
        if call.custom:
            raise inexpressible("messages", "a call of a custom tool")
        return {
            "type": "tool_use",
            "id": wire_id(call.id),
            "name": call.name,
            "input": read_arguments(call.arguments),
            **write_cache(call.cache),
        }

    def _result(self, result: ToolResult) -> JSONObject:
        if result.custom:
            raise inexpressible("messages", "the result of a custom tool")
        content = self.blocks(result.content)
        return {
            "type": "tool_result",
            "tool_use_id": wire_id(result.call_id),
            **({"content": content} if content else {}),
            **({"is_error": True} if result.is_error else {}),
            **write_cache(result.cache),
        }


def write_text(block: Text | Refusal) -> JSONObject:
    citations = [each.raw for each in block.citations if each.dialect == DIALECT] if isinstance(block, Text) else []
    return {
        "type": "text",
        "text": block.text,
        **({"citations": citations} if citations else {}),
        **write_cache(block.cache if isinstance(block, Text) else None),
    }


def write_cache(cache: CacheHint | None) -> JSONObject:
    if cache is None:
        return {}
    return {"cache_control": {"type": "ephemeral", **({"ttl": cache.ttl} if cache.ttl else {})}}


def read_arguments(arguments: str) -> JSONObject:
    """The input of a call. What a model wrote that is no JSON object stands under a name that says so."""
    value: Any
    try:
        value = _decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        return {"invalid_json": arguments}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"invalid_json": arguments}


def wire_id(call_id: str) -> str:
    """The id of a call in the letters that ids may have here; the same for a call and its result."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    return f"{_NO_CALL_ID.sub('_', call_id)[:48]}_{zlib.crc32(call_id.encode()):08x}"


def inexpressible(param: str, what: str) -> InexpressibleError:
    return InexpressibleError(
        f"`{param}` has {what}, which cannot be said in the dialect {DIALECT} that this model's provider speaks; "
        "leave it out or call another model.",
        param=param,
    )


def _guessed(data: str) -> str:
    return next((media_type for start, media_type in _BEGINNINGS.items() if data.startswith(start)), "")


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise inexpressible("messages", "a text file that is not UTF-8 in base64") from None


def _kind(block: Any) -> str:
    return str(type(block).__struct_config__.tag)

"""Parts of Gemini's contents: what a person, a model or a tool said."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._gemini_fields import DIALECT, proto_object, proto_objects
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
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
from providers.adapters.errors import InexpressibleError, MalformedBodyError
from providers.adapters.types import JSONObject

_OUTPUT = ("output", "error")
"""Keys of a tool's response that hold what it said, or what went wrong; without them all of it is what it said."""
_OF_GOOGLE = ("generativelanguage.googleapis.com", "storage.googleapis.com")
_SIMPLE = frozenset(
    {"text", "thought", "thoughtSignature", "inlineData", "fileData", "functionCall", "functionResponse"}
)
_HINTS = frozenset({"mediaResolution", "partMetadata"})
"""Fields of a part without which it says the same."""
_MARK = b"gateway.1:"

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Any).decode


class CallIds:
    """Ids of the calls in one request: Gemini's callers may leave them out and tell results apart by name and order."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []
        self._made = 0

    def called(self, given: str, name: str) -> str:
        found = given or self._make()
        self._waiting.append((found, name))
        return found

    def answered(self, given: str, name: str) -> str:
        for number, (found, called) in enumerate(self._waiting):
            if found == given or (not given and called == name):
                del self._waiting[number]
                return found
        return given or self._make()

    def _make(self) -> str:
        self._made += 1
        return f"call_{self._made}"


class _Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another dialect wants to see again of a thought."""

    dialect: str
    signature: str = ""
    encrypted: str = ""
    id: str = ""
    summary: bool = False


_decode_proof = msgspec.json.Decoder(_Proof).decode


# ── reading ──


def read_part(part: Fields, ids: CallIds) -> Block:
    """One part of a request."""
    signature = part.text("thoughtSignature")
    text = part.get("text")
    if not part.raw.keys() <= _SIMPLE | _HINTS:
        return Foreign(DIALECT, part.raw)
    if text is not None:
        if part.boolean("thought"):
            return read_thought(part.text("text"), signature)
        return Text(part.text("text"), signature=signature)
    for name, read in (("inlineData", _inline), ("fileData", _stored)):
        if (found := proto_object(part, name)) is not None:
            return _detailed(read(found), part)
    if (call := proto_object(part, "functionCall")) is not None:
        name = call.required_text("name")
        arguments = call.json_object("args") or {}
        return ToolCall(ids.called(call.text("id"), name), name, dumped(arguments), signature=signature)
    if (response := proto_object(part, "functionResponse")) is not None:
        return _result(response, ids)
    if signature or part.get("thought") is not None:
        return read_thought("", signature) if part.boolean("thought") else Text("", signature=signature)
    raise MalformedBodyError(f"`{part.path}` is an empty part; it must have text, data or a call.", param=part.path)


def _detailed(block: Block, part: Fields) -> Block:
    """An image in the detail that its `mediaResolution` asks for."""
    resolution = proto_object(part, "mediaResolution")
    if resolution is None or not isinstance(block, Image):
        return block
    level = resolution.text("level").rpartition("_")[2].lower()
    return msgspec.structs.replace(block, detail=level if level in {"low", "high"} else "auto")


def read_thought(text: str, signature: str) -> Reasoning:
    """A thought of Gemini's, or of another dialect's that went through its client."""
    proof = _read_proof(signature)
    if proof is not None:
        return Reasoning(text, proof.signature, proof.encrypted, proof.id, proof.summary, proof.dialect)
    return Reasoning(text, signature, summary=True, dialect=DIALECT)


def joined_thoughts(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """`blocks` with the pieces of each thought made one: a stream brings them apart, and its proof with the last."""
    joined: list[Block] = []
    for block in blocks:
        before = joined[-1] if joined else None
        if (
            isinstance(block, Reasoning)
            and isinstance(before, Reasoning)
            and not (before.signature or before.encrypted)
        ):
            joined[-1] = msgspec.structs.replace(block, text=before.text + block.text)
        else:
            joined.append(block)
    return tuple(joined)


def _read_proof(signature: str) -> _Proof | None:
    try:
        # Google's client sends bytes back in the alphabet for addresses.
        raw = base64.b64decode(signature.translate(str.maketrans("-_", "+/")), validate=True)
        return _decode_proof(raw.removeprefix(_MARK)) if raw.startswith(_MARK) else None
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _inline(blob: Fields) -> Block:
    return media(Source(blob.required_text("data"), media_type=blob.text("mimeType")), blob.text("displayName"))


def _stored(file: Fields) -> Block:
    uri, media_type = file.required_text("fileUri"), file.text("mimeType")
    try:
        address = urlsplit(uri)
    except ValueError:
        raise file.wrong("fileUri", "the address of a file") from None
    if address.scheme in {"http", "https"} and address.hostname not in _OF_GOOGLE:
        return media(Source(url=uri, media_type=media_type), file.text("displayName"))
    return media(Source(file_id=uri, media_type=media_type), file.text("displayName"))


def media(source: Source, name: str = "") -> Image | Audio | File:
    """The kind of block that a source of its media type is."""
    kind = source.media_type.partition("/")[0].lower()
    if kind == "image":
        return Image(source)
    return Audio(source) if kind == "audio" else File(source, name)


def _result(response: Fields, ids: CallIds) -> ToolResult:
    name = response.required_text("name")
    raw = response.json_object("response") or {}
    content: list[Text | Image | File | Audio] = []
    said = _said(raw)
    if said:
        content.append(Text(said))
    for part in proto_objects(response, "parts"):
        found = read_part(part, ids)
        if not isinstance(found, (Text, Image, File, Audio)):
            raise part.wrong("inlineData", "there: results are made of data")
        content.append(found)
    call_id = ids.answered(response.text("id"), name)
    return ToolResult(call_id, tuple(content), name, is_error=raw.keys() == {"error"})


def _said(response: JSONObject) -> str:
    """What a tool said: by Google's convention what is under `output` or `error`, else all of it."""
    if len(response) == 1 and (value := next((response[key] for key in _OUTPUT if key in response), None)) is not None:
        return value if isinstance(value, str) else dumped(value)
    return dumped(response) if response else ""


def dumped(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# ── writing ──


def write_thought(block: Reasoning) -> JSONObject:
    """A thought for a client; it sends the signature back without reading it, so other dialects' can travel in it."""
    part: JSONObject = {"text": block.text, "thought": True}
    if block.dialect in {DIALECT, ""}:
        return part | ({"thoughtSignature": block.signature} if block.signature else {})
    if block.signature or block.encrypted or block.id:
        proof = _Proof(block.dialect, block.signature, block.encrypted, block.id, block.summary)
        part["thoughtSignature"] = base64.b64encode(_MARK + _encode(proof)).decode()
    return part


def write_call(call: ToolCall, *, param: str) -> JSONObject:
    """Raises InexpressibleError for arguments that are no JSON object."""
    arguments = {"input": call.arguments} if call.custom else read_arguments(call.arguments)
    if arguments is None:
        raise InexpressibleError(
            f"The arguments of the call '{call.id}' are not a JSON object, and {DIALECT} takes no others.", param=param
        )
    written: JSONObject = {"functionCall": {"id": call.id, "name": call.name, "args": arguments}}
    return written | ({"thoughtSignature": call.signature} if call.signature else {})


def read_arguments(text: str) -> JSONObject | None:
    """The object that a model wrote; None if it is none."""
    if not text.strip():
        return {}
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_result(result: ToolResult, name: str, *, param: str) -> JSONObject:
    said = "\n".join([block.text for block in result.content if isinstance(block, Text)])
    response: JSONObject = {
        "id": result.call_id,
        "name": name,
        "response": {"error" if result.is_error else "output": said},
    }
    parts = [write_media(block, param=param) for block in result.content if not isinstance(block, Text)]
    return {"functionResponse": response | ({"parts": parts} if parts else {})}


def write_media(block: Image | Audio | File, *, param: str) -> JSONObject:
    """Raises InexpressibleError for a file that is stored elsewhere, or a sound of which only its id is known."""
    source = block.source
    if isinstance(block, File) and block.text:
        source = Source(base64.b64encode(block.text.encode()).decode(), media_type="text/plain")
    if isinstance(block, Audio) and not (source.data or source.url or source.file_id):
        if block.transcript:
            return {"text": block.transcript}
        raise InexpressibleError("The provider does not have the earlier answer in sound; send its text.", param=param)
    named = {"displayName": block.name} if isinstance(block, File) and block.name else {}
    if source.data:
        return {"inlineData": {"mimeType": _media_type(block, source), "data": source.data, **named}}
    uri = source.url or source.file_id
    if source.file_id and not uri.startswith(("https://", "gs://", "files/")):
        raise InexpressibleError(
            f"The file '{source.file_id}' is stored at another provider; send its bytes.", param=param
        )
    return {"fileData": {"mimeType": _media_type(block, source), "fileUri": uri, **named}}


def _media_type(block: Image | Audio | File, source: Source) -> str:
    """Said, or guessed from the end of its name: the API wants to know."""
    if source.media_type:
        return source.media_type
    name = block.name if isinstance(block, File) and block.name else _path(source.url)
    usual = {Image: "image/jpeg", Audio: "audio/wav", File: "application/pdf"}[type(block)]
    return mimetypes.guess_type(name)[0] or usual


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""  # The provider will say what is wrong with it.


def write_block(block: Block, *, param: str) -> JSONObject | None:
    """A block of a request as a part; None for what is not to be sent. Results of tools that a user sends are for `write_result`.

    Raises:
        InexpressibleError: it cannot be said, and must not be left out.
    """
    match block:
        case Text():
            signed = {"thoughtSignature": block.signature} if block.signature else {}
            return {"text": block.text, **signed} if block.text or signed else None
        case Refusal():
            return {"text": block.text} if block.text else None
        case Reasoning():
            # Thoughts of other models are none of this one's business.
            return write_thought(block) if block.dialect == DIALECT else None
        case ToolCall():
            return write_call(block, param=param)
        case Image() | Audio() | File():
            return write_media(block, param=param)
        case Foreign() if block.dialect == DIALECT:
            return block.raw
        case Foreign():
            raise InexpressibleError(
                f"`{param}` holds something that only {block.dialect} knows; leave it out or call another model.",
                param=param,
            )
        case ToolResult():
            raise InexpressibleError(f"`{param}` is no place for the result of a tool; a user sends it.", param=param)

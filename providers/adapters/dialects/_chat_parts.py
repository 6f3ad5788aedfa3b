"""The parts that contents of OpenAI's chat messages are made of: text, images, sound, files."""

from __future__ import annotations

from typing import Any

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    CacheHint,
    File,
    Foreign,
    Image,
    Refusal,
    Source,
    Text,
)
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

DIALECT = "openai.chat"
_SOUNDS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav"}


def read_parts(fields: Fields, name: str) -> tuple[Block, ...]:
    """The content called `name`: a string, or a list of parts."""
    value = fields.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, list):
        raise fields.wrong(name, "a string or a list of parts")
    return tuple(_part(part) for part in fields.objects(name))


def source_of_url(url: str) -> Source:
    """A `data:` URL is its data; every other stays one."""
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and comma and head.endswith(";base64")):
        return Source(url=url)
    return Source(data=data, media_type=head.removeprefix("data:").partition(";")[0])


def url_of_source(source: Source, fallback_type: str = "application/octet-stream") -> str:
    """Empty for a file that is stored at a provider."""
    return f"data:{source.media_type or fallback_type};base64,{source.data}" if source.data else source.url


_LIFETIMES = {"30m": "", "12h": "1h"}
"""Of breakpoints, by what is nearest elsewhere."""


def read_cache(fields: Fields) -> CacheHint | None:
    """OpenAI's breakpoint, or the hint of another format that many send inside bodies of this one."""
    if (point := fields.object("prompt_cache_breakpoint")) is not None:
        ttl = point.text("ttl")
        return CacheHint(_LIFETIMES.get(ttl, ttl))
    hint = fields.object("cache_control")
    return None if hint is None else CacheHint(hint.text("ttl"))


def write_cache(cache: CacheHint | None) -> JSONObject:
    if cache is None:
        return {}
    return {"cache_control": {"type": "ephemeral", **({"ttl": cache.ttl} if cache.ttl else {})}}


def write_breakpoint(cache: CacheHint | None) -> JSONObject:
    if cache is None:
        return {}
    return {"prompt_cache_breakpoint": {"mode": "explicit", **({"ttl": "12h"} if cache.ttl == "1h" else {})}}


def _part(part: Fields) -> Block:
    match part.required_text("type"):
        case "text":
            return Text(part.required_text("text"), cache=read_cache(part))
        case "refusal":
            return Refusal(part.required_text("refusal"))
        case "image_url":
            return _image(part)
        case "input_audio":
            sound = part.required_object("input_audio")
            return Audio(Source(data=sound.required_text("data"), media_type=sound_type(sound.text("format"))))
        case "file":
            return _file(part)
        case _:
            return Foreign(DIALECT, part.raw)


def _image(part: Fields) -> Image:
    if isinstance(url := part.get("image_url"), str):  # Some clients leave the object out.
        return Image(source_of_url(url), cache=read_cache(part))
    image = part.required_object("image_url")
    return Image(source_of_url(image.required_text("url")), image.text("detail"), read_cache(part))


def _file(part: Fields) -> File:
    file = part.required_object("file")
    name = file.text("filename")
    if file_id := file.text("file_id"):
        return File(Source(file_id=file_id), name, cache=read_cache(part))
    data = file.required_text("file_data")
    is_url = data.startswith(("data:", "http://", "https://"))
    source = source_of_url(data) if is_url else Source(data=data, media_type="application/pdf")
    return File(source, name, cache=read_cache(part))


def sound_type(name: str) -> str:
    """The media type of what this format calls `name`."""
    return {"mp3": "audio/mpeg", "": ""}.get(name, f"audio/{name}")


def sound_format(media_type: str) -> str:
    """What this format calls sounds of `media_type`."""
    return _SOUNDS.get(media_type, media_type.removeprefix("audio/") or "wav")


class PartWriter:
    """Writes blocks as parts of one message. `param` names the message in errors."""

    def __init__(self, param: str, extensions: frozenset[str]) -> None:
        self._param = param
        self._extensions = extensions

    def content(self, blocks: tuple[Block, ...]) -> str | list[JSONObject]:
        """As a string where one text says it all, for that is what every server understands."""
        parts = [self.part(block) for block in blocks]
        if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
            text: str = parts[0]["text"]
            return text
        return parts

    def part(self, block: Block) -> JSONObject:
        cache = self._hint(getattr(block, "cache", None))
        match block:
            case Text():
                return {"type": "text", "text": block.text, **cache}
            case Refusal():
                return {"type": "refusal", "refusal": block.text}
            case Image():
                return {"type": "image_url", "image_url": self._image(block), **cache}
            case Audio():
                return {"type": "input_audio", "input_audio": self._sound(block)}
            case File() if block.text:
                return {"type": "text", "text": f"{block.name}\n\n{block.text}" if block.name else block.text, **cache}
            case File():
                return {"type": "file", "file": self._file(block), **cache}
            case Foreign() if block.dialect == DIALECT:
                return block.raw
            case _:
                raise self._inexpressible(f"a block of type `{_kind(block)}`")

    def _hint(self, cache: CacheHint | None) -> JSONObject:
        if "cache_control" in self._extensions:
            return write_cache(cache)
        return write_breakpoint(cache) if "prompt_cache_breakpoint" in self._extensions else {}

    def _image(self, image: Image) -> JSONObject:
        url = url_of_source(image.source, "image/png")
        if not url:
            raise self._inexpressible("an image that is stored at another provider")
        return {"url": url, **({"detail": image.detail} if image.detail else {})}

    def _sound(self, sound: Audio) -> JSONObject:
        if not sound.source.data:
            raise self._inexpressible("sound that is not in the request itself")
        return {"data": sound.source.data, "format": sound_format(sound.source.media_type)}

    def _file(self, file: File) -> JSONObject:
        if file.source.url or file.source.file_id:
            raise self._inexpressible("a file that is not in the request itself")
        name = file.name or "document.pdf"
        return {"filename": name, "file_data": url_of_source(file.source, "application/pdf")}

    def _inexpressible(self, what: str) -> InexpressibleError:
        return InexpressibleError(
            f"`{self._param}` has {what}, which cannot be said in the dialect {DIALECT} that this model's provider "
            "speaks; leave it out or call another model.",
            param=self._param,
        )


def _kind(block: Any) -> str:
    return str(type(block).__struct_config__.tag)

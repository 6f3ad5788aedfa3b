"""The parts that contents of items of OpenAI's Responses are made of."""

from __future__ import annotations

from providers.adapters.dialects._chat_parts import (
    read_cache,
    sound_format,
    sound_type,
    source_of_url,
    url_of_source,
    write_breakpoint,
)
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    CacheHint,
    Citation,
    File,
    Foreign,
    Image,
    Refusal,
    Source,
    Text,
)
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

DIALECT = "openai.responses"


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


def _part(part: Fields) -> Block:
    match part.required_text("type"):
        case "input_text" | "output_text" | "text" | "summary_text":
            citations = tuple(read_citation(each.raw) for each in part.objects("annotations"))
            return Text(part.required_text("text"), citations, read_cache(part))
        case "refusal":
            return Refusal(part.required_text("refusal"))
        case "input_image":
            url = part.text("image_url")
            source = source_of_url(url) if url else Source(file_id=part.required_text("file_id"))
            detail = part.text("detail").removeprefix("auto")  # It is told by default.
            return Image(source, detail, read_cache(part))
        case "input_file":
            return _file(part)
        case "input_audio":
            sound = part.required_object("input_audio")
            return Audio(Source(data=sound.required_text("data"), media_type=sound_type(sound.text("format"))))
        case _:
            return Foreign(DIALECT, part.raw)


def _file(part: Fields) -> File:
    name, cache = part.text("filename"), read_cache(part)
    if file_id := part.text("file_id"):
        return File(Source(file_id=file_id), name, cache=cache)
    if url := part.text("file_url"):
        return File(Source(url=url), name, cache=cache)
    data = part.required_text("file_data")
    source = source_of_url(data) if data.startswith("data:") else Source(data=data, media_type="application/pdf")
    return File(source, name, cache=cache)


def read_citation(annotation: JSONObject) -> Citation:
    if annotation.get("type") != "url_citation":
        return Citation(raw=annotation, dialect=DIALECT)
    start, end = annotation.get("start_index"), annotation.get("end_index")
    return Citation(
        url=str(annotation.get("url") or ""),
        title=str(annotation.get("title") or ""),
        start=start if isinstance(start, int) else None,
        end=end if isinstance(end, int) else None,
    )


def write_citation(citation: Citation) -> JSONObject:
    """Empty for one that only another dialect has words for."""
    if citation.raw and citation.dialect == DIALECT:
        return citation.raw
    if not citation.url:
        return {}
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        "start_index": citation.start or 0,
        "end_index": citation.end or 0,
    }


class PartWriter:
    """Writes what is put in: by users, by systems, by tools. `param` names the place in errors."""

    def __init__(self, param: str, limits: Limits, *, own: bool) -> None:
        self._param = param
        self._hints = "prompt_cache_breakpoint" in limits.extensions
        self._own = own  # the request was in this dialect, so that its file ids are the provider's

    def content(self, blocks: tuple[Block, ...]) -> str | list[JSONObject]:
        parts = [self.part(block) for block in blocks]
        if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
            text: str = parts[0]["text"]
            return text
        return parts

    def part(self, block: Block) -> JSONObject:
        hint: CacheHint | None = getattr(block, "cache", None)
        cache = write_breakpoint(hint) if self._hints else {}
        match block:
            case Text():
                return {"type": "input_text", "text": block.text, **cache}
            case Image():
                return {"type": "input_image", "detail": block.detail or "auto", **self._image(block.source), **cache}
            case File() if block.text:
                text = f"{block.name}\n\n{block.text}" if block.name else block.text
                return {"type": "input_text", "text": text, **cache}
            case File():
                return {"type": "input_file", **self._file(block), **cache}
            case Audio() if block.source.data:
                sound = {"data": block.source.data, "format": sound_format(block.source.media_type)}
                return {"type": "input_audio", "input_audio": sound}
            case Foreign() if block.dialect == DIALECT:
                return block.raw
            case _:
                raise self.inexpressible(f"a block of type `{type(block).__struct_config__.tag}`")

    def _image(self, source: Source) -> JSONObject:
        if source.file_id:
            return {"file_id": self._file_id(source)}
        return {"image_url": url_of_source(source, "image/png")}

    def _file(self, file: File) -> JSONObject:
        if file.source.file_id:
            return {"file_id": self._file_id(file.source)}
        if file.source.url:
            return {"file_url": file.source.url, **({"filename": file.name} if file.name else {})}
        return {"filename": file.name or "document.pdf", "file_data": url_of_source(file.source, "application/pdf")}

    def _file_id(self, source: Source) -> str:
        if not self._own:
            raise self.inexpressible("a file that is stored at another provider")
        return source.file_id

    def inexpressible(self, what: str) -> InexpressibleError:
        return InexpressibleError(
            f"`{self._param}` has {what}, which cannot be said in the dialect {DIALECT} that this model's provider "
            "speaks; leave it out or call another model.",
            param=self._param,
        )

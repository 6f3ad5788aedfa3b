"""Forms with files (`multipart/form-data`): what stands in their fields, and how one value is replaced.

Files are never touched, and never copied more than once. What two readers might understand differently is refused: the
model that is admitted must be the one that the provider reads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from providers.adapters.errors import MalformedBodyError

MAX_PARTS = 1_000
_BOUNDARY = re.compile(rb"--([0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?])\r\n")
_TOKEN = re.compile(rb"[0-9A-Za-z._-]+")
_PARAMETER = re.compile(rb';\s*(name|filename|name\*|filename\*)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)\s*', re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition\s*:\s*form-data\s*", re.IGNORECASE)
_ENCODING = re.compile(rb"content-transfer-encoding\s*:\s*(?!(?:7bit|8bit|binary)\s*$)", re.IGNORECASE)


class Part(NamedTuple):
    name: str
    start: int
    """Where its content begins in the body."""
    end: int
    is_file: bool


class Form:
    """A body, cut into parts. Raises MalformedBodyError."""

    def __init__(self, body: bytes) -> None:
        opening = _BOUNDARY.match(body)
        if opening is None:
            raise MalformedBodyError(
                "The request body is no multipart form. Send one with `Content-Type: multipart/form-data`.", param=""
            )
        self.body = body
        self.boundary = opening[1]
        self.parts = self._read()

    @property
    def content_type(self) -> bytes:
        """What the body has to be sent as, whatever its caller called it."""
        plain = _TOKEN.fullmatch(self.boundary)
        return b"multipart/form-data; boundary=" + (self.boundary if plain else b'"%b"' % self.boundary)

    def values(self) -> dict[str, str]:
        """The fields that are no files; a field that stands there several times, as in lists, by its last value."""
        return {part.name: self._text(part) for part in self.parts if not part.is_file}

    def only(self, name: str) -> Part | None:
        """The one part of a name. Raises MalformedBodyError: there are more, or it is a file."""
        found = [part for part in self.parts if part.name == name]
        if len(found) > 1:
            raise MalformedBodyError(f"The form has more than one `{name}`; send one.", param=name)
        if found and found[0].is_file:
            raise MalformedBodyError(f"`{name}` is a file; send it as a plain field.", param=name)
        return found[0] if found else None

    def with_value(self, name: str, value: str) -> bytes:
        """The body with another value in place of that of a field which it has."""
        part = self.only(name)
        if part is None:
            raise MalformedBodyError(f"The form lacks `{name}`.", param=name)
        return b"%b%b%b" % (self.body[: part.start], value.encode(), self.body[part.end :])

    def file_spans(self) -> list[tuple[int, int]]:
        return [(part.start, part.end) for part in self.parts if part.is_file]

    def _text(self, part: Part) -> str:
        try:
            return self.body[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise MalformedBodyError(f"`{part.name}` is not UTF-8.", param=part.name) from None

    def _read(self) -> list[Part]:
        body, delimiter = self.body, b"\r\n--" + self.boundary
        position = len(self.boundary) + 2
        parts: list[Part] = []
        while not body.startswith(b"--", position):
            if not body.startswith(b"\r\n", position) or len(parts) == MAX_PARTS:
                raise _broken()
            # A part without headers begins with the empty line that ends them.
            head_end = body.find(b"\r\n\r\n", position)
            end = body.find(delimiter, head_end + 2)
            if head_end < 0 or end < 0:
                raise _broken()
            parts.append(_part(body[position + 2 : head_end], head_end + 4, max(end, head_end + 4)))
            position = end + len(delimiter)
        return parts


def _part(head: bytes, start: int, end: int) -> Part:
    dispositions = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition")]
    if len(dispositions) != 1 or any(line[:1] in b" \t" or _ENCODING.match(line) for line in head.split(b"\r\n")):
        raise _broken()
    kind = _DISPOSITION.match(dispositions[0])
    parameters = _parameters(dispositions[0], kind.end()) if kind else {}
    if b"name" not in parameters or b"name*" in parameters:
        raise _broken()
    name = parameters[b"name"]
    is_file = b"filename" in parameters or b"filename*" in parameters
    # A name that some servers would unescape could be that of another field.
    if b"\\" in name or b"%" in name:
        raise _broken()
    return Part(name.decode("utf-8", "replace"), start, end, is_file)


def _parameters(line: bytes, position: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while position < len(line):
        parameter = _PARAMETER.match(line, position)
        if parameter is None or parameter[1].lower() in found:
            raise _broken()
        found[parameter[1].lower()] = parameter[2].strip(b'"')
        position = parameter.end()
    return found


def _broken() -> MalformedBodyError:
    return MalformedBodyError("The multipart form cannot be read: a part of it is not as it must be.", param="")

"""Ids of what providers keep for callers, found in the bodies of requests. No parsing: no form of JSON may hide one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_STRING = re.compile(rb'"([A-Za-z0-9_:/.@%\\+-]{4,400})"')
"""Whole strings that could be an id or an address of a kept object, none of which is longer. Between two strings of JSON stands nothing that it could take for one."""
_ID = re.compile(
    r"[a-z]+[_-][A-Za-z0-9_-]{16,180}"
    r"|(?:file|batch|vs|ftjob|upload|part)[-_][\w-]{1,180}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    re.ASCII,
)
"""As providers make them: a word and much chance, or a UUID."""
_decode = msgspec.json.Decoder(str).decode


def may_name(body: bytes, marks: tuple[bytes, ...]) -> bool:
    """Whether one of the `marks` may be in there: JSON can write any letter as an escape. Looks from the end, which is faster."""
    for mark in marks:
        if body.rfind(mark) >= 0:
            return True
    return b"\\" in body and body.rfind(b"\\u") >= 0


def ids_in(body: bytes) -> Iterator[str]:
    """What looks like an id, once for each time that it stands there."""
    return (each for each in _texts(body) if _ID.fullmatch(each))


def paths_in(body: bytes) -> Iterator[str]:
    """What looks like the path or the address of an object: `cachedContents/abc`, `https://…/v1beta/files/abc`."""
    return (each for each in _texts(body) if "/" in each)


def _texts(body: bytes) -> Iterator[str]:
    for found in _STRING.finditer(body):
        text = found[1]
        if b"\\" not in text:
            yield text.decode("ascii")
            continue
        try:
            yield _decode(found[0])
        except msgspec.DecodeError:
            continue  # No JSON, so that no provider reads it either.

"""Headers that the gateway says itself, as they go out: `name: value` lines, each ended by CRLF.

An answer has fifteen of them. As lines they are made by a few formats, which costs a third of pairs that are put
together one by one. Whoever makes a line answers for its value: numbers, and names that went through `line`.
"""

from __future__ import annotations

HeaderLines = bytes


def line(name: bytes, value: bytes) -> HeaderLines:
    """Raises ValueError for a value with which somebody would write lines of his own."""
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError(f"the header {name.decode()} holds a line break or a NUL")
    return b"%b: %b\r\n" % (name, value)


def pairs(lines: HeaderLines) -> list[tuple[bytes, bytes]]:
    """The same as names and values, for whoever speaks no HTTP/1.1 himself."""
    found = []
    for each in lines.split(b"\r\n")[:-1]:
        name, _, value = each.partition(b": ")
        found.append((name, value))
    return found

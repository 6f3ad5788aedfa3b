"""JSON of which nobody knows beforehand whether it is any."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def as_object(content: bytes) -> dict[str, Any] | None:
    """The object in `content`; None: it is something else."""
    if not content[:64].lstrip().startswith(b"{"):
        return None
    try:
        value = _decode(content)
    except _UNREADABLE:
        return None
    return value if isinstance(value, dict) else None

"""What the fake provider is told to do with a request: be slow, fail, break off, or misbehave in a known way.

A script comes from the request's `x-fake-script` header (JSON), from the field `x_fake` of its body (which a gateway
passes on like any unknown field), from the model's name (`fake-chat+delay_ms:200+tokens:50`), or from
`POST /_control/scripts`, which queues scripts for the requests that follow. Rules (`faults`) say what is usual.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one request is answered. The default is a well-behaved provider in no hurry to be slow."""

    delay_ms: int = 0
    """Before the answer's headers."""
    jitter_ms: int = 0
    """Up to so much more, by chance."""
    chunk_delay_ms: int = 0
    """Before each piece of a stream after the first."""
    tokens: int | None = None
    """Output tokens, unless the request caps them lower."""
    status: int = 200
    """An error with the body of the dialect: 400, 401, 403, 404, 429, 500, 503, 529, or any other."""
    code: str = ""
    """The error's code, if not the usual one."""
    error: Literal["", "context_too_long", "content_policy"] = ""
    """An error for this reason, told as the dialect does; 400 unless `status` says otherwise."""
    inside_200: bool = False
    """The error comes as the body of an answer whose status is 200."""
    retry_after: str = ""
    """The header of an error."""
    reset: bool = False
    """Reset the connection before the headers."""
    reset_after: int | None = None
    """Reset it after so many pieces of a stream; 0: after the headers. Other answers: after the headers or in the middle."""
    truncate_after: int | None = None
    """End a stream after so many pieces as if that were all. Other answers: close the connection before their end."""
    malformed_after: int | None = None
    """Cut the JSON of the piece after so many in half. Other answers: of the whole."""
    drip: int = 0
    """Send the answer's body at so many bytes a second."""
    error_after: int | None = None
    """Send an error event after so many pieces of a stream, and end it."""
    stall_after: int | None = None
    """Say nothing more after so many pieces of a stream, until the client leaves. 0: not even the headers."""
    usage: Literal["normal", "none", "with_choices", "x_groq"] = "normal"
    """Where usage is: where OpenAI has it, nowhere, with the last choices, or as Groq does."""
    line_end: Literal["lf", "crlf", "cr"] = "lf"
    split: int = 0
    """Send a stream in pieces of so many bytes, wherever that cuts it."""
    done: bool = True
    """End a stream as its dialect does: with `[DONE]`, or `message_stop`."""
    padding: int = 0
    """Bytes of filling in the answer's text."""
    text: str | None = None
    """The answer, word for word; with `tool`, its arguments as JSON."""
    tool: str = ""
    """Call the tool of this name, if the request has it."""


class Scripts:
    """Finds the script of a request. Queued ones are used up first, each `times` times."""

    def __init__(self) -> None:
        self._queue: deque[Script] = deque()

    def queue(self, script: Script, times: int) -> None:
        self._queue.extend([script] * times)

    def clear(self) -> None:
        self._queue.clear()

    def of(self, headers: Mapping[str, str], body: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> Script:
        """What a request says of itself goes before what is `usual`.

        Raises:
            msgspec.ValidationError: the script says what no script can say.
        """
        if self._queue:
            return self._queue.popleft()
        told = {**(usual or {}), **in_model_name(str(body.get("model", ""))), **(body.get("x_fake") or {})}
        if header := headers.get("x-fake-script"):
            told.update(json.loads(header))
        return msgspec.convert(told, Script, strict=False)


def in_model_name(model: str) -> dict[str, str]:
    """What a model's name says after its first `+`."""
    return dict(word.split(":", 1) for word in model.split("+")[1:] if ":" in word)

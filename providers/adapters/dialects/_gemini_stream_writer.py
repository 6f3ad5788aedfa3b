"""Writes streams of Gemini's streamGenerateContent: each event is an answer that holds what is new."""

from __future__ import annotations

import msgspec

from providers.adapters.dialects._gemini_citations import write_grounding
from providers.adapters.dialects._gemini_errors import error_body
from providers.adapters.dialects._gemini_logprobs import write_logprobs
from providers.adapters.dialects._gemini_reply import (
    BROKEN_CALL,
    frame,
    is_broken,
    shows_thought,
    write_finish,
    write_said,
)
from providers.adapters.dialects._gemini_usage import write_usage
from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, WireError
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Citation,
    Conversation,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
    extended,
)
from providers.adapters.types import ErrorKind, JSONObject, Usage

STATUS_OF = {
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.EXCEEDS_LIMIT: 429,
    ErrorKind.QUOTA_EXHAUSTED: 429,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.AUTHENTICATION: 502,
    ErrorKind.PERMISSION_DENIED: 502,
    ErrorKind.SERVER_ERROR: 500,
}


class _Choice:
    """What must be remembered of one choice to write its end."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        """Those that are written when they end: calls, and what comes at once."""
        self.streamed: dict[int, Block] = {}
        """Those that are written as they come, without their text."""
        self.texts: list[str] = []
        """All text, in one row: Gemini's clients join the parts."""
        self.starts: dict[int, int] = {}
        """Where the text of each block begins in it."""
        self.citations: list[Citation] = []
        self.broken: ToolCall | None = None
        self.end: ChoiceEnded | None = None

    def length(self) -> int:
        return sum(map(len, self.texts))


class GeminiStreamWriter:
    """Writes the events of one stream."""

    def __init__(self, asked: Conversation) -> None:
        self._asked = asked
        self._frame: JSONObject = frame("", "", asked)
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        match event:
            case Started():
                self._frame, self._usage = frame(event.id, event.model, self._asked), event.usage
            case BlockStarted():
                return self._begun(event)
            case Delta():
                return self._more(event)
            case BlockEnded():
                return self._ended(event)
            case ChoiceEnded():
                self._choice(event.choice).end = event
            case Ended():
                self._usage = event.usage or self._usage
                return self._last()
            case Failed():
                status = STATUS_OF.get(event.kind, 400)
                error = WireError(status, event.message, ERROR_TYPES[event.kind], ERROR_CODES[event.kind])
                return _event(error_body(error))
        return b""

    def _choice(self, number: int) -> _Choice:
        return self._choices.setdefault(number, _Choice())

    def _begun(self, event: BlockStarted) -> bytes:
        choice, block = self._choice(event.choice), event.block
        if isinstance(block, (Text, Refusal)):
            choice.streamed[event.index] = block
            choice.starts[event.index] = choice.length()
            return self._said(choice, Text(block.text), event.choice) if block.text else b""
        if isinstance(block, Audio) and block.source.data:
            choice.streamed[event.index] = msgspec.structs.replace(block, transcript="")
            return self._said(choice, block, event.choice)
        choice.blocks[event.index] = block
        return b""

    def _more(self, delta: Delta) -> bytes:
        choice = self._choice(delta.choice)
        block = choice.streamed.get(delta.index)
        if block is None:
            return self._gathered(choice, delta)
        if delta.citation is not None:
            choice.citations.append(_moved(delta.citation, choice.starts[delta.index]))
        logprobs = write_logprobs(delta.logprobs)
        if not (delta.text or delta.signature or logprobs):
            return b""
        return self._said(choice, Text(delta.text, signature=delta.signature), delta.choice, logprobs)

    def _gathered(self, choice: _Choice, delta: Delta) -> bytes:
        """More of a block that is written at its end, or of a thought."""
        block = choice.blocks.get(delta.index)
        if block is None:
            return b""
        if isinstance(block, Reasoning) and delta.text and not (delta.signature or delta.encrypted):
            visible = self._asked.thinking is not None and self._asked.thinking.visible
            if visible:
                return self._said(choice, Reasoning(delta.text), delta.choice)
        choice.blocks[delta.index] = extended(block, delta)
        logprobs = write_logprobs(delta.logprobs)
        return self._chunk({"logprobsResult": logprobs, "index": delta.choice}) if logprobs else b""

    def _ended(self, event: BlockEnded) -> bytes:
        choice = self._choice(event.choice)
        block = choice.blocks.pop(event.index, None)
        if block is None:
            return b""
        if isinstance(block, ToolCall) and is_broken(block):
            choice.broken = block
            return b""
        if isinstance(block, Reasoning) and not (block.text or shows_thought(block, self._asked)):
            return b""
        return self._said(choice, block, event.choice)

    def _said(self, choice: _Choice, block: Block, number: int, logprobs: JSONObject | None = None) -> bytes:
        part = write_said(block, self._asked)
        if isinstance(block, Text):
            choice.texts.append(block.text)
            part = part or {"text": ""}
        if part is None:
            return b""
        content = {"content": {"parts": [part], "role": "model"}, "index": number}
        return self._chunk(content | ({"logprobsResult": logprobs} if logprobs else {}))

    def _chunk(self, candidate: JSONObject) -> bytes:
        usage = {"usageMetadata": write_usage(self._usage)} if self._usage is not None else {}
        return _event(msgspec.json.encode({"candidates": [candidate], **usage, **self._frame}))

    def _last(self) -> bytes:
        candidates = [self._end(number, choice) for number, choice in sorted(self._choices.items())]
        usage = {"usageMetadata": write_usage(self._usage)} if self._usage is not None else {}
        return _event(msgspec.json.encode({"candidates": candidates, **usage, **self._frame}))

    def _end(self, number: int, choice: _Choice) -> JSONObject:
        reason = write_finish(choice.end.finish if choice.end else "other")
        written: JSONObject = {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": reason}
        if choice.broken is not None:
            written["finishReason"] = BROKEN_CALL
            written["finishMessage"] = f"Malformed function call: {choice.broken.name} {choice.broken.arguments}"
        if choice.citations:
            written["groundingMetadata"] = write_grounding({0: ("".join(choice.texts), choice.citations)})
        return written | {"index": number}


def _moved(citation: Citation, by: int) -> Citation:
    if citation.end is None or not by:
        return citation
    return msgspec.structs.replace(citation, start=(citation.start or 0) + by, end=citation.end + by)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"

"""Answers of Bedrock's Converse, whole and as streams of binary events, and their usage."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from providers.adapters._aws_events import Message, MessageSplitter
from providers.adapters.dialects._converse_writing import DIALECT
from providers.adapters.dialects._openai_wire import count
from providers.adapters.dialects.conversation import Block, Foreign, Reasoning, Text, ToolCall
from providers.adapters.dialects.errors import kind_of_refusal
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    Choice,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Finish,
    Reply,
    Started,
)
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import ErrorKind, JSONObject, Usage

_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_KINDS = {
    "throttlingException": ErrorKind.RATE_LIMITED,
    "serviceUnavailableException": ErrorKind.OVERLOADED,
    "modelNotReadyException": ErrorKind.OVERLOADED,
    "serviceQuotaExceededException": ErrorKind.RATE_LIMITED,
    "accessDeniedException": ErrorKind.PERMISSION_DENIED,
    "unrecognizedClientException": ErrorKind.AUTHENTICATION,
    "expiredTokenException": ErrorKind.AUTHENTICATION,
    "validationException": ErrorKind.INVALID_REQUEST,
    "resourceNotFoundException": ErrorKind.INVALID_REQUEST,
}

_decode = msgspec.json.Decoder(dict[str, Any]).decode
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def exception_kind(name: str, message: str) -> ErrorKind | None:
    """What an exception of AWS means, by its name; None: nothing that is known."""
    plain = name.rpartition("#")[2].partition(":")[0]
    kind = _KINDS.get(plain[:1].lower() + plain[1:])
    if kind is ErrorKind.INVALID_REQUEST and ("too long" in message or "maximum context" in message):
        return ErrorKind.CONTEXT_TOO_LONG
    if kind is ErrorKind.PERMISSION_DENIED:
        return kind_of_refusal(message)
    return kind


# ── usage ──


def read_usage(raw: JSONObject) -> Usage:
    """Input without what the cache had or took; output with the thoughts.

    Raises:
        MalformedUsageError: it is not an object of numbers.
    """
    written, long = count(raw, "cacheWriteInputTokens"), 0
    details = raw.get("cacheDetails")
    for each in details if isinstance(details, list) else ():
        if isinstance(each, dict) and each.get("ttl") == "1h":
            long += count(each, "inputTokens")
    consistent = long <= written
    return Usage(
        input=count(raw, "inputTokens"),
        cache_read=count(raw, "cacheReadInputTokens"),
        cache_write_5m=written - long if consistent else written,
        cache_write_1h=long if consistent else 0,
        output=count(raw, "outputTokens"),
        consistent=consistent,
    )


def answer_usage(body: bytes) -> tuple[JSONObject | None, str]:
    """The usage object; an answer does not name its model."""
    try:
        usage = _decode(body).get("usage")
    except UNREADABLE:
        return None, ""
    return usage if isinstance(usage, dict) else None, ""


def _known_usage(raw: Any) -> Usage | None:
    try:
        return read_usage(raw) if isinstance(raw, dict) else None
    except MalformedUsageError:
        return None


# ── whole answers ──


def read_reply(body: bytes) -> Reply:
    """Raises MalformedAnswerError."""
    try:
        answer = _decode(body)
        content = answer["output"]["message"]["content"]
        blocks = tuple(_block(raw) for raw in content)
    except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise MalformedAnswerError(f"the provider's answer is none of Converse: {error!r}") from None
    finish, stop_sequence = _finish(answer)
    return Reply(
        id=_new_id(),
        model="",
        choices=(Choice(blocks, finish, stop_sequence),),
        usage=_known_usage(answer.get("usage")),
        dialect=DIALECT,
    )


def _block(raw: JSONObject) -> Block:
    if "text" in raw:
        return Text(str(raw["text"]))
    if "toolUse" in raw:
        call = raw["toolUse"]
        arguments = msgspec.json.encode(call.get("input") or {}).decode()
        return ToolCall(str(call["toolUseId"]), str(call["name"]), arguments)
    if "reasoningContent" in raw:
        thoughts = raw["reasoningContent"]
        text = thoughts.get("reasoningText") or {}
        return Reasoning(
            text=str(text.get("text") or ""),
            signature=str(text.get("signature") or ""),
            encrypted=str(thoughts.get("redactedContent") or ""),
            dialect=DIALECT,
        )
    return Foreign(DIALECT, raw)


def _finish(answer: JSONObject) -> tuple[Finish, str]:
    more = answer.get("additionalModelResponseFields")
    sequence = more.get("stop_sequence") if isinstance(more, dict) else None
    finish = _FINISHES.get(str(answer.get("stopReason")), "other")
    return finish, sequence if isinstance(sequence, str) else ""


def _new_id() -> str:
    """Answers have none of their own."""
    return f"msg_{uuid.uuid4().hex}"


# ── streams ──


class ConverseReader:
    """Reads one stream into events."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self._splitter = MessageSplitter()
        self._open: dict[int, Block] = {}
        self._silent_calls: set[int] = set()  # calls without arguments so far
        self._over = False

    def feed(self, chunk: bytes) -> Iterable[Event]:
        for message in self._splitter.feed(chunk):
            if not self._over:
                yield from self._read(message)

    def finish(self) -> Iterable[Event]:
        return ()

    def _read(self, message: Message) -> Iterator[Event]:
        try:
            raw = _decode(message.payload) if message.payload else {}
        except UNREADABLE as error:
            raise MalformedAnswerError(f"the provider sent an event that is no JSON: {error}") from None
        if message.headers.get(":message-type", "event") != "event":
            self._over = True
            yield failure(message, raw)
            return
        index = raw.get("contentBlockIndex")
        index = index if isinstance(index, int) else 0
        match message.headers.get(":event-type"):
            case "messageStart":
                yield Started(_new_id(), "")
            case "contentBlockStart":
                yield from self._start(index, raw.get("start") or {})
            case "contentBlockDelta":
                yield from self._delta(index, raw.get("delta") or {})
            case "contentBlockStop":
                yield from self._stop(index)
            case "messageStop":
                finish, sequence = _finish(raw)
                yield ChoiceEnded(finish, sequence)
            case "metadata":
                self._over = True
                usage = raw.get("usage")
                self.usage_raw = usage if isinstance(usage, dict) else None
                yield Ended(_known_usage(usage))

    def _start(self, index: int, start: JSONObject) -> Iterator[Event]:
        call = start.get("toolUse")
        if isinstance(call, dict):
            self._silent_calls.add(index)
            yield from self._begun(index, ToolCall(str(call.get("toolUseId") or ""), str(call.get("name") or "")))

    def _delta(self, index: int, delta: JSONObject) -> Iterator[Event]:
        if "text" in delta:
            yield from self._begun(index, Text(""))
            yield Delta(index, str(delta["text"]))
        elif isinstance(call := delta.get("toolUse"), dict):
            piece = call.get("input")
            if isinstance(piece, str) and piece:
                self._silent_calls.discard(index)
                yield Delta(index, piece)
        elif isinstance(thoughts := delta.get("reasoningContent"), dict):
            yield from self._begun(index, Reasoning(dialect=DIALECT))
            yield Delta(
                index,
                str(thoughts.get("text") or ""),
                signature=str(thoughts.get("signature") or ""),
                encrypted=str(thoughts.get("redactedContent") or ""),
            )

    def _begun(self, index: int, block: Block) -> Iterator[Event]:
        """Blocks of text and thoughts begin without saying so."""
        if index not in self._open:
            self._open[index] = block
            yield BlockStarted(block, index)

    def _stop(self, index: int) -> Iterator[Event]:
        if index in self._silent_calls:
            yield Delta(index, "{}")
        if self._open.pop(index, None) is not None:
            yield BlockEnded(index)


def failure(message: Message, raw: JSONObject) -> Failed:
    """An exception in place of an event."""
    name = message.headers.get(":exception-type") or message.headers.get(":error-code") or ""
    text = str(raw.get("message") or message.headers.get(":error-message") or "The provider broke off.")
    return Failed(text, exception_kind(name, text) or ErrorKind.SERVER_ERROR)


class ConverseScanner:
    """A `StreamScanner` for a caller who speaks Converse itself: bytes pass by unchanged."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        self.first_token = False
        self._splitter: MessageSplitter | None = MessageSplitter()
        self._characters = 0

    def feed(self, chunk: bytes) -> bytes:
        if self._splitter is not None:
            try:
                for message in self._splitter.feed(chunk):
                    self._note(message)
            except MalformedAnswerError:
                self._splitter = None  # Not for us to judge: the client gets it, and the rest goes unread.
        return chunk

    def finish(self) -> bytes:
        return b""

    def estimated_output(self, chars_per_token: float) -> int:
        return int(self._characters / chars_per_token) + (self._characters > 0)

    def _note(self, message: Message) -> None:
        kind = message.headers.get(":event-type")
        if kind not in {"contentBlockDelta", "metadata"} and message.headers.get(":message-type") in {None, "event"}:
            return
        try:
            raw = _decode(message.payload) if message.payload else {}
        except UNREADABLE:
            return
        if kind == "contentBlockDelta":
            self.first_token = True
            self._characters += len(str(raw.get("delta") or "")) - DELTA_FRAME
        elif kind == "metadata":
            usage = raw.get("usage")
            self.usage_raw = usage if isinstance(usage, dict) else None
            self.done = True
        elif self.error is None:
            failed = failure(message, raw)
            self.error = {"message": failed.message, "type": failed.kind.value}


DELTA_FRAME = len("{'text': ''}")

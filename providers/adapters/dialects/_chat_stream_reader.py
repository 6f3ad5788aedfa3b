"""Streams of OpenAI's chat completions, read into events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from providers.adapters.dialects._chat_reasoning import detail_text, details_of, from_detail, text_of
from providers.adapters.dialects._chat_reply import (
    CallIds,
    ReadUsage,
    audio_of,
    called,
    citations_of,
    content_of,
    images_of,
    raw_usage,
    read_finish,
    text,
    usage_of,
    whole_number,
)
from providers.adapters.dialects._chat_tools import signature_of
from providers.adapters.dialects.conversation import Audio, Block, Reasoning, Refusal, Source, Text, ToolCall
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Reply,
    Started,
    events_of,
)
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter, ServerEvent
from providers.adapters.types import ErrorKind, JSONObject, Usage

_decode = msgspec.json.Decoder(Any).decode
_KINDS = {
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "429": ErrorKind.RATE_LIMITED,
    "insufficient_quota": ErrorKind.QUOTA_EXHAUSTED,
    "402": ErrorKind.QUOTA_EXHAUSTED,
    "authentication_error": ErrorKind.AUTHENTICATION,
    "401": ErrorKind.AUTHENTICATION,
    "overloaded": ErrorKind.OVERLOADED,
    "overloaded_error": ErrorKind.OVERLOADED,
    "503": ErrorKind.OVERLOADED,
    "context_length_exceeded": ErrorKind.CONTEXT_TOO_LONG,
    "content_filter": ErrorKind.CONTENT_POLICY,
    "content_policy_violation": ErrorKind.CONTENT_POLICY,
    "invalid_request_error": ErrorKind.INVALID_REQUEST,
    "400": ErrorKind.INVALID_REQUEST,
}
ReadReply = Callable[[bytes], Reply]


class ChatStreamReader:
    """Reads what any server of this format sends, in whatever pieces it comes."""

    def __init__(self, read_usage: ReadUsage, read_reply: ReadReply) -> None:
        self.usage_raw: JSONObject | None = None
        self._read_usage = read_usage
        self._read_reply = read_reply
        self._splitter = EventSplitter()
        self._choices: dict[int, _ChoiceReader] = {}
        self._usage: Usage | None = None
        self._ids = CallIds()
        self._has_started = False
        self._is_over = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        return self._read(self._splitter.feed(chunk))

    def finish(self) -> Iterator[Event]:
        yield from self._read(self._splitter.finish())
        if whole := self._splitter.whole:
            yield from self._whole(whole)
        # A stream without its terminator is complete if all of its choices are.
        if not self._is_over and self._choices and all(choice.is_over for choice in self._choices.values()):
            yield from self._end()

    def _read(self, events: Iterator[ServerEvent]) -> Iterator[Event]:
        try:
            for event in events:
                yield from self._event(event)
        except MalformedAnswerError as error:
            yield from self._fail(str(error), ErrorKind.SERVER_ERROR)

    def _event(self, event: ServerEvent) -> Iterator[Event]:
        if self._is_over:
            return
        if event.data == b"[DONE]":
            for number in sorted(self._choices):
                yield from self._choices[number].end({})
            yield from self._end()
            return
        try:
            chunk = _decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedAnswerError("the provider sent an event that is not JSON") from None
        if not isinstance(chunk, dict):
            raise MalformedAnswerError("the provider sent an event that is not a JSON object")
        error = chunk.get("error")
        if error or event.name == "error":
            yield from self._fail(*failure_of(error or chunk))
        else:
            yield from self._chunk(chunk)

    def _chunk(self, chunk: JSONObject) -> Iterator[Event]:
        choices = chunk.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        if not self._has_started and (choices or text(chunk, "id")):
            self._has_started = True
            yield Started(
                text(chunk, "id"),
                text(chunk, "model"),
                whole_number(chunk, "created"),
                service_tier=text(chunk, "service_tier"),
            )
        if (raw := raw_usage(chunk)) is not None:
            self.usage_raw = raw
            self._usage = usage_of(chunk, self._read_usage) or self._usage
        for choice in choices:
            index = choice.get("index")
            number = index if isinstance(index, int) else 0
            if number not in self._choices:
                self._choices[number] = _ChoiceReader(number, self._ids)
            yield from self._choices[number].read(choice)

    def _end(self) -> Iterator[Event]:
        self._is_over = True
        yield Ended(self._usage)

    def _fail(self, message: str, kind: ErrorKind) -> Iterator[Event]:
        if not self._is_over:
            self._is_over = True
            yield Failed(message, kind)

    def _whole(self, body: bytes) -> Iterator[Event]:
        """No events came, but an answer or an error as for a caller who wants no stream."""
        try:
            decoded = _decode(body)
            answer: JSONObject = decoded if isinstance(decoded, dict) else {}
            if error := answer.get("error"):
                yield from self._fail(*failure_of(error))
                return
            reply = self._read_reply(body)
        except (MalformedAnswerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield from self._fail("the provider answered with something that is no stream", ErrorKind.SERVER_ERROR)
            return
        self.usage_raw = raw_usage(answer)
        self._is_over = True
        yield from events_of(reply)


def failure_of(error: Any) -> tuple[str, ErrorKind]:
    if not isinstance(error, dict):
        return str(error), ErrorKind.SERVER_ERROR
    words = [str(error.get(name)) for name in ("code", "type")]
    kind = next((_KINDS[word] for word in words if word in _KINDS), ErrorKind.SERVER_ERROR)
    return text(error, "message") or "the provider broke off without saying why", kind


class _ChoiceReader:
    """The blocks of one choice as they come. At most one of them is open at any time, for that is how servers send."""

    def __init__(self, number: int, ids: CallIds) -> None:
        self._number = number
        self._ids = ids
        self._count = 0
        self._open: tuple[type[Any], int] | None = None
        self._kinds: set[type[Any]] = set()
        self._calls: dict[int, tuple[str, int]] = {}  # by the server's number: its id and the block
        self._last_text: int | None = None
        self._thought: Any = None  # which of several signed thoughts is open
        self.is_over = False

    def read(self, choice: JSONObject) -> Iterator[Event]:
        delta = choice.get("delta") or choice.get("message")
        before = self._count
        if isinstance(delta, dict) and not self.is_over:
            yield from self._delta(delta)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and not self.is_over and any(logprobs.values()):
            if self._open is None and self._count == before:
                yield from self._begin(Text(""))
            yield Delta(self._count - 1, choice=self._number, logprobs=logprobs)
        if text(choice, "finish_reason"):
            yield from self.end(choice)

    def end(self, choice: JSONObject) -> Iterator[Event]:
        if self.is_over:
            return
        yield from self._close()
        self.is_over = True
        finish, sequence = read_finish(choice, self._kinds)
        yield ChoiceEnded(finish, sequence, self._number)

    def _delta(self, delta: JSONObject) -> Iterator[Event]:
        yield from self._thoughts(delta)
        thoughts, content = content_of(delta.get("content"))
        if thoughts:
            yield from self._more(Reasoning(), thoughts)
        if content:
            yield from self._more(Text(""), content)
        for citation in citations_of(delta):
            # They come behind the text that they belong to, at times when other things have been said since.
            if self._last_text is None:
                yield from self._begin(Text(""))
            yield Delta(self._last_text or 0, choice=self._number, citation=citation)
        if refusal := text(delta, "refusal"):
            yield from self._more(Refusal(""), refusal)
        if (sound := audio_of(delta)) is not None:
            yield from self._sound(sound)
        for image in images_of(delta):
            yield from self._begin(image)
        yield from self._calls_in(delta)

    def _thoughts(self, delta: JSONObject) -> Iterator[Event]:
        """Either plain, or in details that may be signed; where both say the same text, it counts once."""
        plain = text_of(delta)
        details = details_of(delta)
        if plain and not any(detail_text(detail) for detail in details):
            yield from self._more(Reasoning(), plain)
        for detail in details:
            yield from self._detail(detail)

    def _detail(self, detail: JSONObject) -> Iterator[Event]:
        said = from_detail(detail)
        key = detail.get("index", detail.get("id"))
        is_open = self._open is not None and self._open[0] is Reasoning
        if not is_open or (self._thought is not None and key != self._thought):
            yield from self._begin(Reasoning(id=said.id, summary=said.summary, dialect=said.dialect))
        self._thought = key
        if said.text or said.signature or said.encrypted:
            yield Delta(self._count - 1, said.text, self._number, signature=said.signature, encrypted=said.encrypted)

    def _sound(self, sound: Audio) -> Iterator[Event]:
        if self._open is None or self._open[0] is not Audio:
            yield from self._begin(Audio(Source(), id=sound.id))
        if sound.source.data or sound.transcript:
            yield Delta(self._count - 1, sound.transcript, self._number, audio=sound.source.data)

    def _calls_in(self, delta: JSONObject) -> Iterator[Event]:
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                yield from self._call(call)
        if isinstance(legacy := delta.get("function_call"), dict):
            yield from self._call({"index": -1, "function": legacy})

    def _call(self, call: JSONObject) -> Iterator[Event]:
        index = call.get("index")
        given = text(call, "id")
        # Where calls have no number, a new id is a new call.
        number = index if isinstance(index, int) else max(self._calls, default=-1) + bool(given)
        name, arguments = called(call)
        known = self._calls.get(number)
        if known is None or (given and name and given != known[0]):
            block = ToolCall(self._ids.new(given), name, custom="custom" in call)
            yield from self._begin(block)
            self._calls[number] = known = (given, self._count - 1)
        signature = signature_of(call)
        if arguments or signature:
            yield Delta(known[1], arguments, self._number, signature=signature)

    def _more(self, empty: Block, piece: str) -> Iterator[Event]:
        if self._open is None or self._open[0] is not type(empty):
            yield from self._begin(empty)
        yield Delta(self._count - 1, piece, self._number)

    def _begin(self, block: Block) -> Iterator[Event]:
        yield from self._close()
        self._open = (type(block), self._count)
        self._kinds.add(type(block))
        self._thought = None
        if isinstance(block, Text):
            self._last_text = self._count
        self._count += 1
        yield BlockStarted(block, self._count - 1, self._number)

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            yield BlockEnded(self._open[1], self._number)
            self._open = None

"""Reads streams of Gemini's streamGenerateContent: each event is an answer that holds what is new.

Nothing in a stream says that it is complete: an answer with a `finishReason` is the last one as a rule, but some
servers put one on every event, and usage may come behind it. So the end is the end of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from providers.adapters.dialects._gemini_citations import read_citations
from providers.adapters.dialects._gemini_errors import error_kind
from providers.adapters.dialects._gemini_logprobs import read_logprobs
from providers.adapters.dialects._gemini_reply import (
    AnswerIds,
    candidates_of,
    finish_of,
    index_of,
    is_blocked,
    parts_of,
    read_answer,
    read_finish,
    usage_of,
)
from providers.adapters.dialects._searches import noted, searches_of_gemini
from providers.adapters.dialects.conversation import Block, Reasoning, Text, ToolCall
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Started,
)
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EventSplitter
from providers.adapters.types import JSONObject, Usage

_SOURCES = ("groundingMetadata", "citationMetadata")


class Candidate:
    """One choice of a stream so far."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish = ""
        self._blocks = 0
        self._open: Block | None = None
        self._texts: dict[int, list[str]] = {}
        self._called = False
        self._sources: JSONObject = {}
        """What was said last of where the text comes from."""

    def read(self, candidate: JSONObject, ids: AnswerIds) -> Iterator[Event]:
        for block in parts_of(candidate, ids):
            yield from self._add(block)
        if logprobs := read_logprobs(candidate.get("logprobsResult")):
            yield from self._beside(logprobs)
        self._sources |= {name: candidate[name] for name in _SOURCES if candidate.get(name)}
        self.finish = finish_of(candidate) or self.finish

    def end(self) -> Iterator[Event]:
        yield from self._cited()
        yield from self._close()
        yield ChoiceEnded(read_finish(self.finish, called=self._called), choice=self.index)

    def _add(self, block: Block) -> Iterator[Event]:
        if isinstance(block, Text):
            if not isinstance(self._open, Text):
                yield from self._begin(Text(""))
            self._texts.setdefault(self._blocks, []).append(block.text)
            yield from self._more(block.text, block.signature)
        elif isinstance(block, Reasoning):
            if not isinstance(self._open, Reasoning):
                yield from self._begin(msgspec.structs.replace(block, text="", signature=""))
            yield from self._more(block.text, block.signature)
        elif isinstance(block, ToolCall):
            self._called = True
            # The signature comes first: clients look for it where the call begins.
            yield from self._begin(msgspec.structs.replace(block, arguments=""))
            yield Delta(self._blocks, block.arguments, self.index)
            yield from self._close()
        else:
            yield from self._begin(block)
            yield from self._close()

    def _begin(self, block: Block) -> Iterator[Event]:
        yield from self._close()
        self._open = block
        yield BlockStarted(block, self._blocks, self.index)

    def _more(self, text: str, signature: str) -> Iterator[Event]:
        if text or signature:
            yield Delta(self._blocks, text, self.index, signature=signature)
        if signature:  # It is the proof of what came up to here.
            yield from self._close()

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            self._open = None
            yield BlockEnded(self._blocks, self.index)
            self._blocks += 1

    def _beside(self, logprobs: JSONObject) -> Iterator[Event]:
        if self._open is None:
            yield from self._begin(Text(""))
        yield Delta(self._blocks, choice=self.index, logprobs=logprobs)

    def _cited(self) -> Iterator[Event]:
        """Citations, whose positions are in the whole text; events may repeat those of the events before them."""
        if not self._sources:
            return
        numbers = list(self._texts)
        texts = [Text("".join(self._texts[number])) for number in numbers]
        for position, citation in read_citations(self._sources, texts):
            yield Delta(numbers[position], choice=self.index, citation=citation)


class GeminiStreamReader:
    """The events of one stream."""

    def __init__(self) -> None:
        self.usage_raw: JSONObject | None = None
        self._splitter = EventSplitter()
        self._ids = AnswerIds()
        self._candidates: dict[int, Candidate] = {}
        self._usage: Usage | None = None
        self._searches = 0
        self._started = False
        self._blocked = False
        self._failed = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        for event in self._splitter.feed(chunk):
            yield from self._read(event.data)

    def finish(self) -> Iterator[Event]:
        for event in self._splitter.finish():
            yield from self._read(event.data)
        if whole := self._splitter.whole:
            yield from self._read_list(whole)
        candidates = self._candidates.values()
        is_complete = self._blocked or (candidates and all(candidate.finish for candidate in candidates))
        if self._failed or not is_complete:
            return
        for candidate in candidates:
            yield from candidate.end()
        if not candidates:
            yield ChoiceEnded("content_filter")
        yield Ended(self._usage)

    def _read_list(self, body: bytes) -> Iterator[Event]:
        """A stream that came as one JSON list, or as one answer."""
        try:
            answers: Any = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedAnswerError(f"the stream is not JSON: {error}") from None
        for answer in answers if isinstance(answers, list) else [answers]:
            yield from self._read(msgspec.json.encode(answer))

    def _read(self, data: bytes) -> Iterator[Event]:
        if self._failed or data == b"[DONE]":
            return
        answer = read_answer(data)
        if isinstance(error := answer.get("error"), dict):
            self._failed = True
            code = error.get("code")
            kind = error_kind(code if isinstance(code, int) else 500, answer)
            yield Failed(str(error.get("message") or "The provider broke the answer off."), kind)
            return
        self._searches = max(self._searches, searches_of_gemini(answer))
        if isinstance(raw := answer.get("usageMetadata"), dict):
            self.usage_raw, self._usage = raw, usage_of(answer)
        self.usage_raw = noted(self.usage_raw, self._searches)
        if not self._started:
            self._started = True
            yield Started(
                str(answer.get("responseId") or ""), str(answer.get("modelVersion") or ""), usage=self._input_usage()
            )
        self._blocked = self._blocked or is_blocked(answer)
        for number, raw_candidate in enumerate(candidates_of(answer)):
            index = index_of(raw_candidate, number)
            candidate = self._candidates.setdefault(index, Candidate(index))
            yield from candidate.read(raw_candidate, self._ids)

    def _input_usage(self) -> Usage | None:
        if self._usage is None:
            return None
        return msgspec.structs.replace(self._usage, output=0, reasoning=0, audio_output=0, units=(), consistent=True)

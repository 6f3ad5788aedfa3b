"""What a chat model answers, whole or as events of a stream, in words that every chat protocol shares.

A stream is `Started`, then blocks that may overlap (`BlockStarted`, `Delta`…, `BlockEnded`), a `ChoiceEnded` for each
choice, then `Ended`. `Failed` may come at any time and is the last. `ReplyBuilder` folds events into the `Reply` that
the same model would have given at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from providers.adapters.dialects.conversation import Audio, Block, Citation, Reasoning, Refusal, Source, Text, ToolCall
from providers.adapters.types import ErrorKind, JSONObject, Usage

Finish = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "stop_sequence", "other"]
"""Why an answer ended. `stop_sequence` is a `stop` that says which; `pause`: the provider wants to be called again."""


class Choice(msgspec.Struct, frozen=True):
    """One of the answers that were asked for."""

    blocks: tuple[Block, ...]
    finish: Finish = "stop"
    stop_sequence: str = ""
    logprobs: JSONObject | None = None
    """OpenAI's `{"content": […], "refusal": […]}`."""
    index: int = 0


class Reply(msgspec.Struct, frozen=True):
    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    """None: the provider did not say."""
    created: int = 0
    """Seconds since the epoch; 0: it did not say."""
    service_tier: str = ""
    extra: dict[str, Any] = {}
    """Fields that only `dialect` has a word for."""
    dialect: str = ""


class Started(msgspec.Struct, frozen=True):
    """The answer begins."""

    id: str
    model: str
    created: int = 0
    usage: Usage | None = None
    """What is known by now: most often the input."""
    service_tier: str = ""


class BlockStarted(msgspec.Struct, frozen=True):
    """A block begins. `block` has what is known by now; its text or arguments follow."""

    block: Block
    index: int
    """Unique within its choice; blocks stand in this order in the whole answer."""
    choice: int = 0


class Delta(msgspec.Struct, frozen=True):
    """More of a block: of its text, arguments or thoughts, or what comes with them."""

    index: int
    text: str = ""
    choice: int = 0
    signature: str = ""
    encrypted: str = ""
    citation: Citation | None = None
    audio: str = ""
    """Base64 of a piece of sound; `text` is its transcript."""
    logprobs: JSONObject | None = None


class BlockEnded(msgspec.Struct, frozen=True):
    index: int
    choice: int = 0


class ChoiceEnded(msgspec.Struct, frozen=True):
    finish: Finish
    stop_sequence: str = ""
    choice: int = 0


class Ended(msgspec.Struct, frozen=True):
    """The answer is complete."""

    usage: Usage | None = None


class Failed(msgspec.Struct, frozen=True):
    """The provider broke off with an error inside the stream."""

    message: str
    kind: ErrorKind = ErrorKind.SERVER_ERROR


Event = Started | BlockStarted | Delta | BlockEnded | ChoiceEnded | Ended | Failed


class ReplyBuilder:
    """Folds the events of one stream into a reply."""

    def __init__(self) -> None:
        self.started = Started("", "")
        self.usage: Usage | None = None
        self.failed: Failed | None = None
        self._blocks: dict[tuple[int, int], Block] = {}
        self._ends: dict[int, ChoiceEnded] = {}
        self._logprobs: dict[int, dict[str, list[Any]]] = {}

    def add(self, event: Event) -> None:
        match event:
            case Started():
                self.started, self.usage = event, event.usage
            case BlockStarted():
                self._blocks[event.choice, event.index] = event.block
            case Delta():
                self._extend(event)
            case ChoiceEnded():
                self._ends[event.choice] = event
            case Ended():
                self.usage = event.usage or self.usage
            case Failed():
                self.failed = event
            case BlockEnded():
                return

    def reply(self) -> Reply:
        numbers = sorted({choice for choice, _ in self._blocks} | set(self._ends))
        started = self.started
        return Reply(
            id=started.id,
            model=started.model,
            created=started.created,
            service_tier=started.service_tier,
            choices=tuple(self._choice(number) for number in numbers),
            usage=self.usage,
        )

    def _choice(self, number: int) -> Choice:
        blocks = tuple(self._blocks[key] for key in sorted(self._blocks) if key[0] == number)
        end = self._ends.get(number, ChoiceEnded("other", choice=number))
        return Choice(blocks, end.finish, end.stop_sequence, self._logprobs.get(number), number)

    def _extend(self, delta: Delta) -> None:
        key = delta.choice, delta.index
        self._blocks[key] = extended(self._blocks[key], delta)
        for name, values in (delta.logprobs or {}).items():
            if isinstance(values, list):
                self._logprobs.setdefault(delta.choice, {}).setdefault(name, []).extend(values)


def extended(block: Block, delta: Delta) -> Block:
    """`block` with `delta` behind it."""
    replace = msgspec.structs.replace
    match block:
        case Text():
            cited = (*block.citations, delta.citation) if delta.citation else block.citations
            return replace(
                block, text=block.text + delta.text, citations=cited, signature=block.signature + delta.signature
            )
        case ToolCall():
            return replace(block, arguments=block.arguments + delta.text, signature=block.signature + delta.signature)
        case Reasoning():
            return replace(
                block,
                text=block.text + delta.text,
                signature=block.signature + delta.signature,
                encrypted=block.encrypted + delta.encrypted,
            )
        case Refusal():
            return replace(block, text=block.text + delta.text)
        case Audio():
            source = replace(block.source, data=block.source.data + delta.audio)
            return replace(block, source=source, transcript=block.transcript + delta.text)
        case _:
            return block


def events_of(reply: Reply) -> Iterable[Event]:
    """The stream that would have brought `reply`, each block in one piece."""
    yield Started(reply.id, reply.model, reply.created, service_tier=reply.service_tier)
    for choice in reply.choices:
        for index, block in enumerate(choice.blocks):
            yield from _events_of_block(block, index, choice.index)
        if choice.logprobs and choice.blocks:
            yield Delta(len(choice.blocks) - 1, choice=choice.index, logprobs=choice.logprobs)
        yield ChoiceEnded(choice.finish, choice.stop_sequence, choice.index)
    yield Ended(reply.usage)


def _events_of_block(block: Block, index: int, choice: int) -> Iterable[Event]:
    replace = msgspec.structs.replace
    match block:
        case Text():
            yield BlockStarted(Text(""), index, choice)
            yield Delta(index, block.text, choice, signature=block.signature)
            for citation in block.citations:
                yield Delta(index, choice=choice, citation=citation)
        case ToolCall():
            yield BlockStarted(replace(block, arguments="", signature=""), index, choice)
            yield Delta(index, block.arguments, choice, signature=block.signature)
        case Reasoning():
            yield BlockStarted(replace(block, text="", signature="", encrypted=""), index, choice)
            yield Delta(index, block.text, choice, signature=block.signature, encrypted=block.encrypted)
        case Refusal():
            yield BlockStarted(Refusal(""), index, choice)
            yield Delta(index, block.text, choice)
        case Audio():
            empty = replace(block, transcript="", source=Source(media_type=block.source.media_type))
            yield BlockStarted(empty, index, choice)
            yield Delta(index, block.transcript, choice, audio=block.source.data)
        case _:
            yield BlockStarted(block, index, choice)
    yield BlockEnded(index, choice)

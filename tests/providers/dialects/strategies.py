"""Conversations, replies and streams for property tests, each cut to what a dialect can say, and what they have in common.

`Says` tells what a dialect can say. A test of one dialect gives its own; a test of a pair gives `first & second`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import msgspec
from hypothesis import strategies as st

from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    CacheHint,
    Citation,
    Conversation,
    File,
    Image,
    OutputFormat,
    Reasoning,
    Refusal,
    Role,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.reply import Choice, Event, Finish, Reply, ReplyBuilder
from providers.adapters.types import Usage


@dataclass(frozen=True)
class Says:
    """What a dialect can say; everything by default."""

    developer: bool = True
    system_anywhere: bool = True
    """System turns may stand among the others; otherwise one comes first, or none."""
    names: bool = True
    images: bool = True
    audio: bool = True
    files: bool = True
    result_images: bool = True
    result_errors: bool = True
    cache: bool = True
    tool_cache: bool = True
    custom_tools: bool = True
    allowed_tools: bool = True
    strict: bool = True
    effort: bool = True
    budget: bool = True
    reasoning: bool = True
    refusals: bool = True
    citations: bool = True
    top_k: bool = True
    penalties: bool = True
    seed: bool = True
    choices: bool = True
    logprobs: bool = True
    logit_bias: bool = True
    output_format: bool = True
    verbosity: bool = True
    metadata: bool = True
    user: bool = True
    stop: bool = True
    parallel: bool = True
    cache_writes: bool = True
    """Usage tells tokens that were written to a cache."""
    reasoning_tokens: bool = True
    audio_tokens: bool = True
    service_tier: bool = True
    stop_sequence: bool = True

    def __and__(self, other: Says) -> Says:
        both = {field.name: getattr(self, field.name) and getattr(other, field.name) for field in fields(self)}
        return Says(**both)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,15}", fullmatch=True)
IDS = st.from_regex(r"call_[a-zA-Z0-9]{8,16}", fullmatch=True)
BASE64 = st.sampled_from(["aGVsbG8=", "R3LDvMOfZQ==", "AAEC"])
SCHEMAS = st.sampled_from(
    [
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        {"type": "object", "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}},
    ]
)  # fmt: skip
ARGUMENTS = st.dictionaries(NAMES, st.one_of(WORDS, st.integers(-5, 5), st.booleans()), max_size=3).map(
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
)
TEMPERATURES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
COUNTS = st.integers(0, 10_000)


def _maybe(possible: bool, strategy: st.SearchStrategy[Any], absent: Any = None) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(absent), strategy) if possible else st.just(absent)


def _hints(says: Says) -> st.SearchStrategy[CacheHint | None]:
    return _maybe(says.cache, st.sampled_from([CacheHint(), CacheHint("1h")]))


def texts(says: Says) -> st.SearchStrategy[Text]:
    return st.builds(Text, WORDS, cache=_hints(says))


def images(says: Says) -> st.SearchStrategy[Image]:
    source = st.one_of(
        st.builds(Source, data=BASE64, media_type=st.sampled_from(["image/png", "image/jpeg"])),
        st.just(Source(url="https://example.org/a.png")),
    )
    return st.builds(Image, source, cache=_hints(says))


def user_blocks(says: Says) -> st.SearchStrategy[Block]:
    """What a user shows to the model."""
    kinds: list[st.SearchStrategy[Any]] = [texts(says)]
    if says.images:
        kinds.append(images(says))
    if says.audio:
        kinds.append(st.builds(Audio, st.builds(Source, data=BASE64, media_type=st.sampled_from(["audio/wav"]))))
    if says.files:
        pdf = st.builds(Source, data=BASE64, media_type=st.just("application/pdf"))
        kinds.append(st.builds(File, pdf, st.just("paper.pdf"), cache=_hints(says)))
    return st.one_of(kinds)


@st.composite
def _exchanges(draw: st.DrawFn, says: Says, tools: tuple[Tool, ...], ids: Iterable[int]) -> list[Turn]:
    """The user speaks, the model answers; perhaps it calls tools and gets their results."""
    name = draw(_maybe(says.names, NAMES, ""))
    turns = [Turn("user", tuple(draw(st.lists(user_blocks(says), min_size=1, max_size=3))), name)]
    said: list[Block] = [Text(text) for text in draw(st.lists(WORDS, max_size=1))]
    calls = draw(st.lists(_calls(says, tools), max_size=3)) if tools else []
    calls = [msgspec.structs.replace(call, id=f"call_{next(iter(ids)):08d}") for call in calls]
    if not (said or calls):
        said = [Text("Yes.")]
    turns.append(Turn("assistant", (*said, *calls)))
    if calls:
        turns.append(Turn("user", tuple(draw(_result(says, call)) for call in calls)))
        turns.append(Turn("assistant", (Text(draw(WORDS)),)))
    return turns


@st.composite
def _calls(draw: st.DrawFn, says: Says, tools: tuple[Tool, ...]) -> ToolCall:
    tool = draw(st.sampled_from(tools))
    if tool.custom is not None:
        return ToolCall("", tool.name, draw(WORDS), custom=True)
    return ToolCall("", tool.name, draw(ARGUMENTS))


@st.composite
def _result(draw: st.DrawFn, says: Says, call: ToolCall) -> ToolResult:
    content: list[Any] = [Text(draw(WORDS))]
    if says.result_images:
        content += draw(st.lists(images(Says(cache=False)), max_size=1))
    failed = draw(st.booleans()) if says.result_errors else False
    return ToolResult(call.id, tuple(content), is_error=failed, custom=call.custom)


@st.composite
def tool_lists(draw: st.DrawFn, says: Says) -> tuple[Tool, ...]:
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    tools: list[Tool] = []
    for name in names:
        if says.custom_tools and draw(st.booleans()):
            tools.append(Tool(name, draw(WORDS), custom={"type": "text"}))
            continue
        strict = draw(_maybe(says.strict, st.booleans()))
        hint = draw(_hints(says)) if says.tool_cache else None
        tools.append(Tool(name, draw(st.one_of(st.just(""), WORDS)), draw(SCHEMAS), strict, cache=hint))
    return tuple(tools)


@st.composite
def tool_choices(draw: st.DrawFn, says: Says, tools: tuple[Tool, ...]) -> ToolChoice | None:
    if not tools:
        return None
    kinds = ["absent", "auto", "none", "required", "tool"] + (["allowed"] if says.allowed_tools else [])
    match draw(st.sampled_from(kinds)):
        case "absent":
            return None
        case "tool":
            return ToolChoice("tool", draw(st.sampled_from(tools)).name)
        case "allowed":
            return ToolChoice(draw(st.sampled_from(["auto", "required"])), allowed=(tools[0].name,))
        case "none":
            return ToolChoice("none")
        case mode:
            return ToolChoice("auto" if mode == "auto" else "required")


def thinking(says: Says) -> st.SearchStrategy[Thinking | None]:
    kinds: list[st.SearchStrategy[Any]] = [st.none()]
    if says.effort:
        kinds.append(st.builds(Thinking, st.sampled_from(["low", "medium", "high"])))
    if says.budget:
        kinds.append(st.builds(Thinking, budget_tokens=st.sampled_from([1024, 4096])))
    return st.one_of(kinds)


def output_formats(says: Says) -> st.SearchStrategy[OutputFormat | None]:
    strict = _maybe(says.strict, st.booleans())
    schema = st.builds(OutputFormat, st.just("json_schema"), st.just("answer"), SCHEMAS, strict=strict)
    return _maybe(says.output_format, schema)


@st.composite
def conversations(draw: st.DrawFn, says: Says, dialect: str = "") -> Conversation:
    """A request whose every part the dialect can say."""
    tools = draw(tool_lists(says))
    ids = iter(range(10**8))
    turns: list[Turn] = []
    if draw(st.booleans()):
        role: Role = draw(st.sampled_from(["system", "developer"])) if says.developer else "system"
        turns.append(Turn(role, tuple(draw(st.lists(texts(says), min_size=1, max_size=2)))))
    for _ in range(draw(st.integers(0, 2))):
        turns += draw(_exchanges(says, tools, ids))
        if says.system_anywhere and draw(st.booleans()):
            turns.append(Turn("system", (Text(draw(WORDS)),)))
    turns.append(Turn("user", tuple(draw(st.lists(user_blocks(says), min_size=1, max_size=2)))))
    stream = draw(st.booleans())
    penalties = _maybe(says.penalties, TEMPERATURES)
    logprobs = draw(st.booleans()) if says.logprobs else False
    return Conversation(
        model="some-model",
        turns=tuple(turns),
        stream=stream,
        include_usage=stream,
        tools=tools,
        tool_choice=draw(tool_choices(says, tools)),
        parallel_tool_calls=draw(_maybe(says.parallel and bool(tools), st.booleans())),
        max_output_tokens=draw(st.integers(8192, 20_000)),
        temperature=draw(_maybe(True, TEMPERATURES)),
        top_p=draw(_maybe(True, TEMPERATURES)),
        top_k=draw(_maybe(says.top_k, st.integers(1, 40))),
        stop=tuple(draw(st.lists(WORDS.filter(str.strip), max_size=2))) if says.stop else (),
        presence_penalty=draw(penalties),
        frequency_penalty=draw(penalties),
        seed=draw(_maybe(says.seed, st.integers(0, 2**31 - 1))),
        choices=draw(_maybe(says.choices, st.integers(1, 3))),
        logprobs=True if logprobs else None,
        top_logprobs=draw(st.integers(1, 5)) if logprobs else None,
        logit_bias=draw(_maybe(says.logit_bias, st.just({"50256": -100}))),
        output_format=draw(output_formats(says)),
        thinking=draw(thinking(says)),
        verbosity=draw(_maybe(says.verbosity, st.sampled_from(["low", "high"]), "")),
        user=draw(_maybe(says.user, NAMES, "")),
        metadata=draw(_maybe(says.metadata, st.dictionaries(NAMES, WORDS, min_size=1, max_size=2))),
        dialect=dialect,
    )


@st.composite
def usages(draw: st.DrawFn, says: Says) -> Usage:
    return Usage(
        input=draw(COUNTS),
        cache_read=draw(COUNTS),
        cache_write_5m=draw(COUNTS) if says.cache_writes else 0,
        output=draw(COUNTS),
        reasoning=draw(COUNTS) if says.reasoning_tokens else 0,
        audio_input=draw(COUNTS) if says.audio_tokens else 0,
        audio_output=draw(COUNTS) if says.audio_tokens else 0,
    )


@st.composite
def choices(draw: st.DrawFn, says: Says, index: int = 0) -> Choice:
    blocks: list[Block] = []
    finish: Finish = draw(st.sampled_from(["stop", "length", "content_filter"]))
    sequence = ""
    if says.reasoning and draw(st.booleans()):
        blocks.append(Reasoning(draw(WORDS)))
    kind = draw(st.sampled_from(["text", "calls", "both"] + (["refusal"] if says.refusals else [])))
    if kind == "refusal":
        blocks.append(Refusal(draw(WORDS)))
        finish = "refusal"
    if kind in ("text", "both"):
        cited = draw(st.booleans()) if says.citations else False
        text = draw(WORDS)
        citations = (Citation("https://example.org/", "Title", start=0, end=len(text)),) if cited else ()
        blocks.append(Text(text, citations))
    if kind in ("calls", "both"):
        count = draw(st.integers(1, 3))
        blocks += [ToolCall(f"call_{index}{n:07d}", draw(NAMES), draw(ARGUMENTS)) for n in range(count)]
        finish = "tool_calls"
    if finish == "stop" and says.stop_sequence and draw(st.booleans()):
        finish, sequence = "stop_sequence", draw(WORDS.filter(str.strip))
    return Choice(tuple(blocks), finish, sequence, index=index)


@st.composite
def replies(draw: st.DrawFn, says: Says, *, prefix: str = "msg_") -> Reply:
    """A whole answer whose every part the dialect can say."""
    count = draw(st.integers(1, 3)) if says.choices else 1
    return Reply(
        id=prefix + draw(st.from_regex(r"[a-z0-9]{12}", fullmatch=True)),
        model="some-model-2026-01-01",
        choices=tuple(draw(choices(says, index)) for index in range(count)),
        usage=draw(usages(says)),
        created=1767225600,
    )


def folded(events: Iterable[Event]) -> Reply:
    """The whole answer that a stream brought."""
    builder = ReplyBuilder()
    for event in events:
        builder.add(event)
    return builder.reply()


def read_stream(dialect: Dialect, stream: bytes, size: int = 0) -> list[Event]:
    """The events of a stream that comes in pieces of `size` bytes; 0: at once."""
    reader = dialect.stream_reader()
    step = size or max(len(stream), 1)
    events = [event for at in range(0, len(stream), step) for event in reader.feed(stream[at : at + step])]
    return [*events, *reader.finish()]


def written_stream(dialect: Dialect, events: Iterable[Event], asked: Conversation) -> bytes:
    writer = dialect.stream_writer(asked)
    return b"".join(writer.write(event) for event in events)


def merged(conversation: Conversation) -> Conversation:
    """With adjacent turns of the same role made one, as some protocols need them, and without what names the dialect."""
    turns: list[Turn] = []
    for turn in conversation.turns:
        if turns and turns[-1].role == turn.role and turns[-1].name == turn.name:
            turns[-1] = Turn(turn.role, turns[-1].blocks + turn.blocks, turn.name)
        else:
            turns.append(turn)
    return msgspec.structs.replace(conversation, turns=tuple(turns), dialect="", extra={}, include_usage=False)


def plain(reply: Reply) -> Reply:
    """Without what names the dialect, and without what is said of thoughts that nobody wants to see again."""
    told = tuple(
        msgspec.structs.replace(choice, blocks=tuple(_plain_block(block) for block in choice.blocks))
        for choice in reply.choices
    )
    return msgspec.structs.replace(reply, choices=told, dialect="", extra={})


def _plain_block(block: Block) -> Block:
    if isinstance(block, Reasoning) and not (block.signature or block.encrypted):
        return Reasoning(block.text)
    return block

"""From every chat dialect into every other and back, nothing is lost that both can say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from providers.adapters.dialects.base import Dialect, Limits
from providers.adapters.dialects.conversation import (
    Block,
    Citation,
    Conversation,
    File,
    Image,
    OutputFormat,
    Reasoning,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Choice, Reply, events_of
from providers.adapters.dialects.translation import StreamTranslator
from providers.adapters.types import JSONObject
from tests.providers.dialects import converse_side
from tests.providers.dialects import test_anthropic_messages as messages
from tests.providers.dialects import test_gemini_generate_content as gemini
from tests.providers.dialects import test_mistral_chat as mistral
from tests.providers.dialects import test_openai_chat as chat
from tests.providers.dialects import test_openai_responses as responses
from tests.providers.dialects.gemini_scene import GEMINI
from tests.providers.dialects.strategies import Says, conversations, folded, merged, plain, read_stream, replies

SAYS = {
    chat.CHAT.name: chat.SAYS,
    responses.RESPONSES.name: responses.SAYS,
    messages.MESSAGES.name: messages.SAYS,
    GEMINI.name: gemini.SAYS,
    mistral.MISTRAL.name: mistral.SAYS,
}
EXTENSIONS = frozenset(
    {
        *("developer", "top_k", "service_tier", "metadata", "prompt_cache_key", "cache_control", "extra_content"),
        *("reasoning_content", "reasoning_details", "prompt_cache_breakpoint"),
    }
)
LIMITS = Limits("some-model", extensions=EXTENSIONS)
CONVERSE = get_dialect("bedrock.converse")
UNTRANSLATED = Says(effort=False, budget=False, tool_cache=False)
"""Thinking is said in words here and in tokens there: see below."""
NEAR = mistral.MISTRAL.name
"""Is written by way of OpenAI's chat, so that its way to others is that one's."""
PAIRS = [
    pytest.param(*pair, id="-to-".join(pair))
    for pair in itertools.permutations(SAYS, 2)
    if pair[0] != NEAR or pair[1] == chat.CHAT.name
]
QUICK = settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


def both(one: str, other: str) -> Says:
    return SAYS[one] & SAYS[other] & UNTRANSLATED


def read_request(dialect: Dialect, body: bytes, like: Conversation) -> Conversation:
    """Model and stream are told as well, for some dialects have them in the path."""
    return dialect.read_request(body, model=like.model, stream=like.stream)


@pytest.mark.parametrize(("one", "other"), PAIRS)
@QUICK
@given(st.data())
def test_a_request_says_the_same(one: str, other: str, data: st.DataObject) -> None:
    inbound, outbound = get_dialect(one), get_dialect(other)
    meant = data.draw(conversations(both(one, other), one))
    body = inbound.write_request(meant, LIMITS).body

    asked = read_request(inbound, body, meant)
    written = outbound.write_request(asked, LIMITS)

    assert written.dropped == ()
    assert comparable(read_request(outbound, written.body, meant)) == comparable(meant)


@pytest.mark.parametrize(("one", "other"), PAIRS)
@QUICK
@given(st.data())
def test_an_answer_says_the_same(one: str, other: str, data: st.DataObject) -> None:
    inbound, outbound = get_dialect(one), get_dialect(other)
    meant = data.draw(replies(both(one, other)))
    asked = Conversation("some-model", (), thinking=Thinking(visible=True))

    seen = inbound.write_reply(outbound.read_reply(outbound.write_reply(meant, asked)), asked)

    assert told(inbound.read_reply(seen)) == told(meant)


@pytest.mark.parametrize(("one", "other"), PAIRS)
@QUICK
@given(st.data(), st.integers(1, 200))
def test_a_stream_says_the_same(one: str, other: str, data: st.DataObject, size: int) -> None:
    inbound, outbound = get_dialect(one), get_dialect(other)
    meant = data.draw(replies(both(one, other)))
    asked = Conversation("some-model", (), stream=True, include_usage=True, thinking=Thinking(visible=True))
    writer = outbound.stream_writer(asked)
    upstream = b"".join(writer.write(event) for event in events_of(meant))
    translator = StreamTranslator(outbound.stream_reader(), inbound.stream_writer(asked), model="some-model")

    pieces = [upstream[at : at + size] for at in range(0, len(upstream), size)]
    seen = b"".join([*map(translator.feed, pieces), translator.finish()])

    assert translator.done
    assert translator.usage_raw is not None
    assert outbound.usage(translator.usage_raw) == meant.usage
    assert told(folded(read_stream(inbound, seen))) == told(meant)


# ── to Converse, which nobody is translated from ──


@pytest.mark.parametrize("one", SAYS)
@QUICK
@given(st.data())
def test_converse_is_asked_the_same(one: str, data: st.DataObject) -> None:
    inbound = get_dialect(one)
    meant = converse_can(data.draw(conversations(SAYS[one] & converse_side.SAYS & UNTRANSLATED, one)))
    body = inbound.write_request(meant, LIMITS).body

    written = CONVERSE.write_request(read_request(inbound, body, meant), LIMITS)

    assert written.dropped == ()
    assert named_plainly(comparable(converse_side.read_request(written.body, meant))) == named_plainly(
        comparable(meant)
    )


@pytest.mark.parametrize("one", SAYS)
@QUICK
@given(st.data(), st.integers(1, 200))
def test_converse_answers_the_same(one: str, data: st.DataObject, size: int) -> None:
    """As a whole, and as a stream however it is cut."""
    inbound = get_dialect(one)
    meant = data.draw(replies(SAYS[one] & converse_side.SAYS & UNTRANSLATED))
    asked = Conversation(meant.model, (), stream=True, include_usage=True, thinking=Thinking(visible=True))
    upstream = converse_side.write_stream(meant)
    translator = StreamTranslator(CONVERSE.stream_reader(), inbound.stream_writer(asked), model=meant.model)

    answer = msgspec.structs.replace(CONVERSE.read_reply(converse_side.write_reply(meant)), model=meant.model)
    whole = inbound.write_reply(answer, asked)
    pieces = [upstream[at : at + size] for at in range(0, len(upstream), size)]
    stream = b"".join([*map(translator.feed, pieces), translator.finish()])

    assert told(inbound.read_reply(whole)) == told(meant)
    assert translator.done
    assert told(folded(read_stream(inbound, stream))) == told(meant)


def converse_can(conversation: Conversation) -> Conversation:
    """With bytes in place of addresses, and tools that may be called."""
    inline = Source(data="aGVsbG8=", media_type="image/png")

    def shown(block: Any) -> Any:
        if isinstance(block, ToolResult):
            return msgspec.structs.replace(block, content=tuple(map(shown, block.content)))
        if isinstance(block, Image) and block.source.url:
            return msgspec.structs.replace(block, source=inline)
        return block

    turns = tuple([msgspec.structs.replace(turn, blocks=tuple(map(shown, turn.blocks))) for turn in conversation.turns])
    choice = conversation.tool_choice
    forbidden = choice is not None and choice.mode == "none"
    return msgspec.structs.replace(conversation, turns=turns, tool_choice=None if forbidden else choice)


def named_plainly(conversation: Conversation) -> Conversation:
    """Names of files without what Converse does not take in them."""
    turns = [
        msgspec.structs.replace(turn, blocks=tuple([_named_plainly(block) for block in turn.blocks]))
        for turn in conversation.turns
    ]
    return msgspec.structs.replace(conversation, turns=tuple(turns))


def _named_plainly(block: Block) -> Block:
    return msgspec.structs.replace(block, name="paper pdf") if isinstance(block, File) else block


# ── what is compared ──


def comparable(conversation: Conversation) -> Conversation:
    """Without what only one of two dialects has a place for: names of schemas and of tools beside results, types of
    files that are only addresses, defaults."""
    conversation = merged(conversation)
    replace = msgspec.structs.replace
    ids: dict[str, str] = {}
    turns = [
        replace(turn, blocks=tuple(numbered(comparable_block(block), ids) for block in turn.blocks))
        for turn in conversation.turns
    ]
    shape = conversation.output_format
    choice = comparable_choice(conversation.tool_choice)
    serial = False if choice and choice.mode != "none" and conversation.parallel_tool_calls is False else None
    return replace(
        conversation,
        model="",
        turns=tuple(turns),
        tools=tuple(comparable_tools(conversation.tools)),
        tool_choice=choice,
        parallel_tool_calls=serial,
        output_format=None if shape is None else OutputFormat(shape.kind, schema=comparable_schema(shape.schema)),
        stop=tuple(word for word in conversation.stop if word.strip()),
        store=None,
        logprobs=conversation.logprobs or None,
    )


def numbered(block: Block, ids: dict[str, str]) -> Block:
    """With the number of a call in place of its id, which some providers will have in a form of their own."""
    if isinstance(block, ToolCall):
        return msgspec.structs.replace(block, id=ids.setdefault(block.id, str(len(ids))))
    return msgspec.structs.replace(block, call_id=ids[block.call_id]) if isinstance(block, ToolResult) else block


def comparable_block(block: Block) -> Block:
    replace = msgspec.structs.replace
    if isinstance(block, ToolResult):
        content: Any = tuple(comparable_block(each) for each in block.content)
        return replace(block, name="", content=content)
    if isinstance(block, Image) and block.source.url:
        return replace(block, source=Source(url=block.source.url))
    return block


def comparable_tools(tools: Iterable[Any]) -> Iterable[Tool]:
    for tool in tools:
        yield msgspec.structs.replace(tool, strict=tool.strict or None)


def comparable_schema(schema: JSONObject | None) -> JSONObject:
    """That there are no further properties is what some providers demand to be said."""
    return {name: value for name, value in (schema or {}).items() if name != "additionalProperties"}


def comparable_choice(choice: ToolChoice | None) -> ToolChoice | None:
    """That one allowed tool must be called is that it is chosen; by default it may call any."""
    if choice is None:
        return ToolChoice("auto")
    if choice.mode == "required" and len(choice.allowed) == 1:
        return ToolChoice("tool", choice.allowed[0])
    return choice


def told(reply: Reply) -> tuple[Any, ...]:
    """What a client sees of a reply: all but whose ids and words they are."""
    return (reply.model, tuple(_told(choice) for choice in plain(reply).choices), reply.usage)


def _told(choice: Choice) -> tuple[Any, ...]:
    # Where a dialect has one word for both, a refusal is content that was filtered.
    finish = "content_filter" if choice.finish == "refusal" else choice.finish
    return (tuple(_told_block(block) for block in choice.blocks), finish, choice.stop_sequence, choice.index)


def _told_block(block: Block) -> Block:
    match block:
        case Text():
            cited = tuple(Citation(each.url, each.title, "", each.start, each.end) for each in block.citations)
            return Text(block.text, cited)
        case Reasoning():
            return Reasoning(block.text)
        case ToolCall():
            return ToolCall(block.id, block.name, block.arguments, block.custom)
        case _:
            return block

"""Anthropic's Messages: what is read is what was said, and streams bring what whole answers bring."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Reply, events_of
from tests.providers.dialects.strategies import (
    Says,
    conversations,
    folded,
    merged,
    plain,
    read_stream,
    replies,
    written_stream,
)

MESSAGES = get_dialect("anthropic.messages")
SAYS = Says(
    developer=False,
    system_anywhere=False,
    names=False,
    audio=False,
    custom_tools=False,
    allowed_tools=False,
    effort=False,
    citations=False,
    penalties=False,
    seed=False,
    choices=False,
    logprobs=False,
    logit_bias=False,
    verbosity=False,
    metadata=False,
    audio_tokens=False,
    service_tier=False,
)
LIMITS = Limits("some-model")
ASKED = Conversation("m", (), stream=True)


def sayable(conversation: Conversation) -> Conversation:
    """Without the combinations that the API refuses."""
    asked = conversation
    if asked.thinking is not None:
        choice = None if asked.tool_choice and asked.tool_choice.mode in {"required", "tool"} else asked.tool_choice
        asked = msgspec.structs.replace(asked, temperature=None, top_p=None, top_k=None, tool_choice=choice)
    if asked.tool_choice is None or asked.tool_choice.mode == "none":
        asked = msgspec.structs.replace(asked, parallel_tool_calls=None)
    if asked.output_format is not None:
        shape = msgspec.structs.replace(asked.output_format, name="", strict=None)
        asked = msgspec.structs.replace(asked, output_format=shape)
    stop = tuple(word for word in asked.stop if word.strip())
    return msgspec.structs.replace(asked, model=LIMITS.model, stop=stop)


def owned(reply: Reply) -> Reply:
    """As this dialect's own: what others filter it refuses, and it does not say when."""
    choices = tuple(
        msgspec.structs.replace(choice, finish="refusal") if choice.finish == "content_filter" else choice
        for choice in reply.choices
    )
    return msgspec.structs.replace(reply, choices=choices, created=0)


@settings(max_examples=80, deadline=None)
@given(conversations(SAYS, MESSAGES.name).map(sayable))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = MESSAGES.write_request(conversation, LIMITS)

    assert written.dropped == ()
    read = MESSAGES.read_request(written.body)
    assert merged(read) == merged(conversation)


@settings(max_examples=80, deadline=None)
@given(replies(SAYS).map(owned))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(MESSAGES.read_reply(MESSAGES.write_reply(reply, ASKED))) == plain(reply)


@settings(max_examples=80, deadline=None)
@given(replies(SAYS).map(owned))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(MESSAGES, events_of(reply), ASKED)

    assert plain(folded(read_stream(MESSAGES, stream))) == plain(reply)
    assert folded(read_stream(MESSAGES, stream, 1)) == folded(read_stream(MESSAGES, stream))

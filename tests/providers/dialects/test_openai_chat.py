"""OpenAI's chat completions: what is read is what was said, and unmodified clients understand what is written."""

from __future__ import annotations

from hypothesis import given, settings

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import Reply, events_of
from tests.providers.dialects.strategies import (
    Says,
    conversations,
    folded,
    plain,
    read_stream,
    replies,
    written_stream,
)

CHAT = get_dialect("openai.chat")
SAYS = Says(
    result_images=False,
    result_errors=False,
    budget=False,
)
EXTENSIONS = frozenset({"developer", "cache_control", "reasoning_content", "reasoning_details", "extra_content"})
LIMITS = Limits("some-model", output_cap_fields=("max_completion_tokens",), extensions=EXTENSIONS)
ASKED = Conversation("m", (), stream=True, include_usage=True)


@settings(max_examples=60, deadline=None)
@given(conversations(SAYS, "openai.chat"))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = CHAT.write_request(conversation, LIMITS)

    assert written.dropped == ()
    assert CHAT.read_request(written.body) == conversation


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="chatcmpl-"))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(CHAT.read_reply(CHAT.write_reply(reply, ASKED))) == reply


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="chatcmpl-"))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(CHAT, events_of(reply), ASKED)

    assert plain(folded(read_stream(CHAT, stream))) == reply
    assert folded(read_stream(CHAT, stream, 1)) == folded(read_stream(CHAT, stream))

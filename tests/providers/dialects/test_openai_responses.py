"""OpenAI's Responses: what is read is what was said, and unmodified clients understand what is written."""

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

RESPONSES = get_dialect("openai.responses")
SAYS = Says(
    names=False,
    tool_cache=False,
    result_errors=False,
    budget=False,
    top_k=False,
    penalties=False,
    seed=False,
    choices=False,
    logit_bias=False,
    stop=False,
    audio_tokens=False,
    stop_sequence=False,
)
LIMITS = Limits("some-model", extensions=frozenset({"prompt_cache_breakpoint"}))
ASKED = Conversation("m", (), stream=True)


@settings(max_examples=60, deadline=None)
@given(conversations(SAYS, "openai.responses"))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = RESPONSES.write_request(conversation, LIMITS)

    assert written.dropped == ()
    assert RESPONSES.read_request(written.body) == conversation


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="resp_"))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(RESPONSES.read_reply(RESPONSES.write_reply(reply, ASKED))) == reply


@settings(max_examples=60, deadline=None)
@given(replies(SAYS, prefix="resp_"))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(RESPONSES, events_of(reply), ASKED)

    assert plain(folded(read_stream(RESPONSES, stream))) == reply
    assert folded(read_stream(RESPONSES, stream, 1)) == folded(read_stream(RESPONSES, stream))

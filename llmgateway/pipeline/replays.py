"""What a kept answer can be given as, and which answers are good enough to be kept. Pure."""

from __future__ import annotations

import enum

import msgspec

from llmgateway.pipeline.cache_keys import form_of, is_convertible
from llmgateway.pipeline.cached_answers import STREAM, STREAM_WITH_USAGE, WHOLE, KeptAnswer
from llmgateway.pipeline.requests import ModelRequest
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.conversation import Reasoning, Refusal, Text, ToolCall
from providers.adapters.dialects.reply import Ended, Reply, ReplyBuilder, events_of
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError, MalformedUsageError

_UNREADABLE = (MalformedAnswerError, MalformedUsageError, InexpressibleError, MalformedBodyError, KeyError)
_FINISHED = frozenset({"stop", "stop_sequence", "tool_calls"})
_SAID = (Text, ToolCall, Reasoning, Refusal)
"""Blocks that a stream and a whole answer say alike."""


class Replay(msgspec.Struct, frozen=True):
    """A kept answer in the form that a request wants."""

    answer: KeptAnswer
    body: bytes
    media_type: bytes


def replay(answer: KeptAnswer, request: ModelRequest) -> Replay | None:
    """None: it cannot be given in the form that the request wants."""
    wanted = form_of(request)
    if answer.form == wanted:
        return Replay(answer, answer.body, answer.media_type)
    if not is_convertible(request):
        return None
    dialect = request.dialect
    try:
        reply = _reply_of(dialect, answer.body, answer.form)
        if reply is None or not _is_plain(reply):
            return None
        asked = dialect.read_request(request.body, model=request.head.model, stream=request.head.stream)
        if answer.usage_source == "provider":
            reply = msgspec.structs.replace(reply, usage=answer.usage)
        if wanted == WHOLE:
            return Replay(answer, dialect.write_reply(reply, asked), dialect.media_type)
        writer = dialect.stream_writer(asked)
        body = b"".join([writer.write(event) for event in events_of(reply)])
    except _UNREADABLE:
        return None
    return Replay(answer, body, dialect.stream_media_type)


class Verdict(enum.Enum):
    """Of an answer with status 200."""

    FINE = "fine"
    WITHHELD = "withheld"
    """It is complete, and not to be given to anybody else: it was filtered, or cut short for want of money."""
    BROKEN = "broken"
    """It ended early, or in an error."""


def judged(body: bytes, request: ModelRequest, *, capped: bool) -> Verdict:
    """`capped`: the gateway had lowered its length for want of money, which another caller may have."""
    form = form_of(request)
    if not is_convertible(request):
        if not request.dialect.is_complete(body, stream=form != WHOLE):
            return Verdict.BROKEN
        return Verdict.WITHHELD if capped else Verdict.FINE
    try:
        reply = _reply_of(request.dialect, body, form)
    except _UNREADABLE:
        return Verdict.BROKEN
    if reply is None or not reply.choices:
        return Verdict.BROKEN
    fine = _FINISHED if capped else _FINISHED | {"length"}
    return Verdict.FINE if all(choice.finish in fine for choice in reply.choices) else Verdict.WITHHELD


def _reply_of(dialect: Dialect, body: bytes, form: str) -> Reply | None:
    """None: it ended early, or in an error."""
    if form not in {STREAM, STREAM_WITH_USAGE}:
        return dialect.read_reply(body)
    reader, builder, ended = dialect.stream_reader(), ReplyBuilder(), False
    for event in (*reader.feed(body), *reader.finish()):
        builder.add(event)
        ended = ended or isinstance(event, Ended)
    return builder.reply() if ended and builder.failed is None else None


def _is_plain(reply: Reply) -> bool:
    return all(isinstance(block, _SAID) for choice in reply.choices for block in choice.blocks)

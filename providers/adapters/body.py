"""Surgery on OpenAI-style request bodies: the little that decisions need is read, the little that must change is changed.

Everything else stays the caller's bytes. No I/O, nothing about any one provider.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Annotated

import msgspec

from providers.adapters.attachments import attached_bytes
from providers.adapters.errors import MalformedBodyError
from providers.adapters.field_names import LARGE_BYTES, field_names, refuse_absurd
from providers.adapters.types import JSONObject

MAX_CHOICES = 10_000
"""Choices that a request may ask for. Far more than any provider takes; what such a request holds fits the ledger."""

_MODEL = b'"model"'
_STARTS = (b'{"model":', b'{"model": ')
# How the letters of `model` look if somebody escapes them; no encoder does that unasked.
_ESCAPED_LETTER = b"\\u006"
# An underscore or a small letter that is escaped, as in a name that hides.
_ESCAPED_NAME = re.compile(rb"\\u00[567]")
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_FIELD = re.compile(r" - at `\$\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)`")
_LONG_FIELDS = (("messages", b'"messages"'), ("input", b'"input"'), ("prompt", b'"prompt"'))


class RequestHead(msgspec.Struct, frozen=True):
    """What the gateway must know of a request. `null` is the same as absent."""

    model: str
    stream: bool | None = None
    stream_options: JSONObject | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    best_of: Annotated[int, msgspec.Meta(le=MAX_CHOICES)] | None = None
    thinking: JSONObject | None = None
    n: Annotated[int, msgspec.Meta(le=MAX_CHOICES)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    """What OpenAI puts in the place of `user`."""
    messages: msgspec.Raw = msgspec.Raw(b"")
    """As it stands in the body, as do the next two; empty if absent."""
    input: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")

    @property
    def asked_for_usage(self) -> bool:
        """The caller wants the usage chunk in the stream; otherwise it must not see one."""
        # "false" and the like are true in Python alone: whoever sends them gets usage asked for as if they had not.
        return (self.stream_options or {}).get("include_usage") is True

    @property
    def end_user(self) -> str:
        """The person behind the request, as far as its body says; may be empty."""
        return (self.user or self.safety_identifier or "")[:200]

    @property
    def choices(self) -> int:
        """How many answers are made, shown or not."""
        if self.n is None and self.best_of is None:
            return 1
        return max(1, self.n or 1, self.best_of or 1)

    def output_cap(self, fields: tuple[str, ...]) -> int | None:
        """The most tokens of output that a choice may have, by those `fields` that the provider obeys.

        Of two different caps the larger, for either may be obeyed. One of zero or less is none: some servers take -1
        for "as much as you like".
        """
        largest = None
        for field in fields:
            cap = getattr(self, field)
            if cap is None:
                continue
            if cap <= 0:
                return None
            if largest is None or cap > largest:
                largest = cap
        return largest

    @property
    def thinking_budget(self) -> int:
        """Tokens that the model is told to think with; they are part of the output."""
        if self.thinking is None:
            return 0
        budget = self.thinking.get("budget_tokens")
        return budget if isinstance(budget, int) and budget > 0 else 0


_DECIDING = frozenset(RequestHead.__struct_fields__) | {
    "tools", "service_tier", "web_search_options", "plugins", "previous_response_id", "conversation", "prediction",
}  # fmt: skip
"""Fields that decide what is admitted and billed. Servers that are written in Go read them in capitals too."""
_USUAL = _DECIDING | {
    "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "metadata",
    "top_logprobs", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "store", "modalities",
    "system", "stop_sequences", "top_k", "instructions", "dimensions", "encoding_format", "text", "reasoning", "include",
}  # fmt: skip
"""Names of fields that are certainly no other field in capitals."""

_decode_head = msgspec.json.Decoder(RequestHead).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_head(body: bytes) -> RequestHead:
    """The head of a request.

    Raises:
        MalformedBodyError: it is not a JSON object, a field has the wrong type, or one stands in it twice: what is
            admitted by the one might be answered and billed by the other. `param` names the field.
    """
    if len(body) > LARGE_BYTES:
        refuse_absurd(body)
    try:
        head = _decode_head(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBodyError(f"The request body is not valid JSON: {error}.") from None
    if not head.model:
        raise MalformedBodyError("`model` is empty; name the model to call.", param="model")
    if not _has_each_field_once(_shortened(body, head)):
        _refuse_repeated(body)
    return head


def _shortened(body: bytes, head: RequestHead) -> bytes:
    """`body` with a short value in place of its longest one, for that would take as long to read as all the rest."""
    for field, name in _LONG_FIELDS:
        raw = bytes(getattr(head, field))
        if not raw:
            continue
        start = body.find(name) + len(name)
        start += 2 if body.startswith(b": ", start) else 1
        # Lists and strings say where they end, so what is cut out is a whole value, wherever it stands.
        if raw[:1] in b'["' and body.startswith(raw, start):
            return body[:start] + b"0" + body[start + len(raw) :]
    return body


def _has_each_field_once(body: bytes) -> bool:
    """Surely so, and for nearly every body it can be said: each field has one colon, and those inside values are known."""
    fields = _decode_fields(body)
    if not _USUAL.issuperset(fields) and any(name not in _DECIDING and name.casefold() in _DECIDING for name in fields):
        return False
    others = body.count(b":") - len(fields)
    return others == 0 or others == sum([bytes(value).count(b":") for value in fields.values()])


def _refuse_repeated(body: bytes) -> None:
    names = field_names(body)
    for name in names:
        if name not in _DECIDING and name.casefold() in _DECIDING:
            raise MalformedBodyError(
                f"Some servers read `{name}` as `{name.casefold()}`; write it in small letters.", param=name
            )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise MalformedBodyError(f"The request body has more than one `{name}`; send one.", param=name)


def _wrong_field(text: str) -> MalformedBodyError:
    if missing := _MISSING.search(text):
        return MalformedBodyError(f"The request body lacks `{missing[1]}`.", param=missing[1])
    if field := _FIELD.search(text):
        reason = text.partition(" - at ")[0].replace("`", "")
        fault = "is too large" if "<=" in reason else "has the wrong type"
        return MalformedBodyError(f"`{field[1]}` {fault}: {reason[0].lower()}{reason[1:]}.", param=field[1])
    return MalformedBodyError("The request body must be a JSON object.", param="")


def replace_model(body: bytes, old: str, new: str) -> bytes:
    """`body` with its top-level model `old` replaced by `new`. `body` has been through `read_head`."""
    value = _encoded(old)
    for start in _STARTS:
        # As its first field it can be no other, and `read_head` has seen to it that there is no second one.
        if body.startswith(start) and body.startswith(value, len(start)):
            return start + _encoded(new) + body[len(start) + len(value) :]
    if _has_plain_model(body):
        colon = _COLON.match(body, body.rfind(_MODEL) + len(_MODEL))
        if colon is not None and body.startswith(value, colon.end()):
            return body[: colon.end()] + _encoded(new) + body[colon.end() + len(value) :]
    fields = _decode_fields(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(new))
    return _joined(fields)


@lru_cache(maxsize=4096)
def _encoded(name: str) -> bytes:
    return msgspec.json.encode(name)


def _has_plain_model(body: bytes) -> bool:
    """`"model"` stands in it exactly once, and nothing that could be the same name in disguise."""
    # rfind throughout: on long bodies it takes a third of the time of find and `in`.
    last = body.rfind(_MODEL)
    return body.rfind(_MODEL, 0, max(last, 0)) < 0 and body.rfind(_ESCAPED_LETTER) < 0


def with_usage_requested(body: bytes, head: RequestHead) -> bytes:
    """`body` with `stream_options.include_usage` switched on; the same object if it is."""
    if head.asked_for_usage:
        return body
    if head.stream_options is None and body.rfind(b'"stream_options"') < 0 and not _ESCAPED_NAME.search(body):
        start = body.index(b"{") + 1
        return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]
    options = {**(head.stream_options or {}), "include_usage": True}
    fields = _decode_fields(body)
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return _joined(fields)


def _joined(fields: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in fields.items()) + b"}"


def with_output_cap(body: bytes, fields: tuple[str, ...], cap: int) -> bytes:
    """`body` with every one of `fields` from 1 to `cap`, and the first of them added where none is there."""
    values = _decode_fields(body)
    present = [name for name in fields if bytes(values.get(name, b"null")) != b"null"]
    for name in present or fields[:1]:
        if name not in present or not 0 < msgspec.json.decode(values[name]) <= cap:
            values[name] = msgspec.Raw(b"%d" % cap)
    return _joined(values)


def estimate_input_tokens(
    body: bytes, chars_per_token: float, *, bytes_per_token: float = 4.0, max_sample_bytes: int = 20_000
) -> int:
    """About how many tokens of text the request holds; images, files and sound in it are not text.

    Up to `max_sample_bytes` characters count, above it bytes. Cheap on purpose: it runs for every request, and the
    provider's own figure replaces it.
    """
    size = len(body) - attached_bytes(body)
    if size > max_sample_bytes:
        return int(max_sample_bytes / chars_per_token + (size - max_sample_bytes) / bytes_per_token) + 1
    if body.isascii():
        return int(size / chars_per_token) + 1
    return int(size * _characters_per_byte(body[:max_sample_bytes]) / chars_per_token) + 1


def _characters_per_byte(sample: bytes) -> float:
    return len(sample.decode("utf-8", "ignore")) / len(sample)

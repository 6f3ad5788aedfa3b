"""The contract of a dialect: one wire format of one operation, such as OpenAI's chat completions.

A dialect that only passes through reads the little that decisions need and leaves the rest as bytes. One that
`translates` can also be read into the common form and written from it, so that a request in one dialect reaches a
provider that speaks another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import msgspec

from providers.adapters.body import RequestHead, read_head, replace_model, with_output_cap
from providers.adapters.dialects.conversation import Conversation
from providers.adapters.dialects.reply import Event, Reply
from providers.adapters.types import ErrorKind, Headers, JSONObject, Operation, Units, Usage


class StreamScanner(Protocol):
    """Stands between the upstream's bytes and the client's for one stream, and learns what settlement must know."""

    usage_raw: JSONObject | None
    """The last usage that the provider reported, as it said it."""
    response_model: str
    error: JSONObject | None
    """The first error that came as an event: `message`, and perhaps `type` and `code`."""
    done: bool
    """The stream has said that it is complete; what `feed` gave back last still has to go out."""
    first_token: bool
    """Something of the answer was seen; roles, comments and keep-alive events are not."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes from upstream; what goes to the client now."""

    def finish(self) -> bytes:
        """The upstream's stream is over: what still goes to the client."""

    def estimated_output(self, chars_per_token: float) -> int:
        """Tokens so far, of a stream that did not say."""


class StreamReader(Protocol):
    """Turns the bytes of one upstream stream into events, however they are cut."""

    usage_raw: JSONObject | None
    """As in `StreamScanner`."""

    def feed(self, chunk: bytes) -> Iterable[Event]: ...

    def finish(self) -> Iterable[Event]:
        """The bytes are over. A stream that was cut off yields no `Ended`."""


class StreamWriter(Protocol):
    """Turns the events of one stream into the bytes that a client of the dialect expects."""

    def write(self, event: Event) -> bytes:
        """Empty where the dialect has nothing to say yet."""


class WireError(msgspec.Struct, frozen=True):
    """An error to be told to a client, in whichever dialect."""

    status: int
    message: str
    type: str
    """OpenAI's word: `invalid_request_error`, `rate_limit_error` …"""
    code: str
    param: str | None = None


class Written(msgspec.Struct, frozen=True):
    """A request as a provider gets it."""

    body: bytes
    dropped: tuple[str, ...] = ()
    """What the caller asked for and this dialect cannot say, by the caller's names; the answer is the same in kind."""


class Limits(msgspec.Struct, frozen=True):
    """What a writer must know of the target besides the conversation."""

    model: str
    """The provider's name for it."""
    max_output_tokens: int | None = None
    """The largest cap that the model takes; None: unknown."""
    extensions: frozenset[str] = frozenset()
    """What the provider understands beyond what all who speak the dialect do, by the names of its fields and roles."""
    output_cap_fields: tuple[str, ...] = ()
    """The fields that cap output and that the provider obeys, the preferred one first."""
    inject_usage: bool = True
    """Streams shall report usage, even though the caller did not ask for it."""


class Dialect:
    """Stateless and shared by all requests; scanners, readers and writers are made for one stream each.

    Example:
        class Messages(Dialect):
            name = "acme.messages"
            operation = Operation.CHAT
    """

    name: ClassVar[str]
    """`<origin>.<format>`."""
    operation: ClassVar[Operation]
    translates: ClassVar[bool] = False
    """The second half of the methods exists."""
    refers_to_kept: ClassVar[bool] = False
    """Requests can go on from answers that somebody keeps."""
    translates_requests: ClassVar[bool] = True
    """Requests in it can be read into the common form, and answers be written; otherwise only the other way round."""
    output_cap_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of `RequestHead` in which a request may cap its output."""
    own_headers: ClassVar[tuple[bytes, ...]] = ()
    """How request headers begin that mean something in this dialect alone: they are not sent on in another."""
    needed_headers: ClassVar[Headers] = ()
    """Headers that no request may lack, as they are sent where the caller has none of that name."""
    measures: ClassVar[bool] = False
    """Requests use something else than tokens that has a price; `asked_units` and `used_units` tell how much."""
    counts_units: ClassVar[bool] = False
    """`asked_units` is exact, or at least the most that can be billed; otherwise it is an estimate."""
    tells_kinds: ClassVar[bool] = True
    """Usage always says what of the input was images and sound; otherwise `by_kind` looks at the request."""
    json_requests: ClassVar[bool] = True
    """Bodies of requests are JSON; others are refused before they are read."""
    clients: ClassVar[tuple[bytes, ...]] = ()
    """How the `User-Agent` of clients begins that call paths of another dialect's and mean this one."""
    in_place_of: ClassVar[str] = ""
    """The dialect whose paths they call."""
    request_id_header: ClassVar[bytes] = b""
    """Where its clients look for the id of a request, besides `x-request-id`."""
    media_type: ClassVar[bytes] = b"application/json"
    """Of whole answers."""
    stream_media_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"

    # ── as it passes through ──

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        """What decisions need of a request. `model` and `stream` are those of the path, where the format has them there.

        Raises:
            MalformedBodyError: `param` names the field.
        """
        return read_head(body)

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        """`body` for the provider's `model`."""
        return replace_model(body, head.model, model)

    def with_output_cap(self, body: bytes, fields: tuple[str, ...], cap: int) -> bytes:
        """`body` that lets the model say no more than `cap` tokens. `fields` are those that the provider obeys."""
        return with_output_cap(body, fields, cap)

    def with_parameters(self, body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> bytes:
        """`body` with what an alias sets, in OpenAI's words; the same object if nothing changes.

        `defaults` are for those that do not say, `overrides` for all; null removes a field.
        """
        return body

    def with_usage_requested(self, body: bytes, head: RequestHead) -> bytes:
        """`body` of a stream that will report usage; the same object where it does so anyway."""
        return body

    def scanner(self, *, strip_usage: bool) -> StreamScanner:
        """For a stream that goes to a client of this same dialect. `strip_usage`: the caller had not asked for it."""
        raise NotImplementedError

    def may_name_kept(self, body: bytes) -> bool:
        """Whether a request may name what a provider keeps: a search of its bytes, for every request is asked.

        JSON can write any letter as an escape, so that a body with escapes may name anything.
        """
        return False

    def asked_units(self, body: bytes) -> Units:
        """What a request uses beside tokens, as far as it says so itself. Only where the dialect `measures`."""
        return ()

    def answered_units(self, body: bytes) -> Units:
        """What an answer shows of what was asked, in place of its request where nobody has that: in batches' results."""
        return ()

    def used_units(self, asked: Units, said: Units) -> Units:
        """What was used of what a request `asked`, once the provider `said` something of it."""
        return said or asked

    def estimated(self, usage: Usage, asked: Units) -> Usage:
        """Tokens of a call whose provider did not say, where `asked` has no price of its own. `usage` is of text."""
        return usage

    def text(self, body: bytes) -> bytes:
        """What of a request is text for the model; asked where requests are no JSON."""
        return body

    def content_type(self, body: bytes) -> bytes:
        """Of a request that is no JSON; empty: it is sent in another way."""
        return b""

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        """The usage object and the model of a whole answer; (None, "") for what it does not say."""
        raise NotImplementedError

    def usage(self, raw: JSONObject) -> Usage:
        """A usage object of this dialect in disjoint buckets.

        Raises:
            MalformedUsageError: it is not an object of numbers.
        """
        raise NotImplementedError

    def by_kind(self, usage: Usage, raw: JSONObject, body: bytes, chars_per_token: float) -> Usage:
        """`usage` with what the request in `body`, of whatever dialect, had beside text. Only where not `tells_kinds`.

        The sum stays what the provider said.
        """
        return usage

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        """The `fields` of a body that decide what its answer is, and how it came (whole or as a stream) not among them.

        None: another answer would be wrong, for this one has effects besides, or depends on what stands elsewhere.
        """
        return None

    def is_complete(self, body: bytes, *, stream: bool) -> bool:
        """Whether an answer is whole and none that was cut or withheld. Asked where nothing can be read as a `Reply`."""
        return False

    def is_stream(self, content_type: bytes) -> bool:
        """Whether an answer of this type comes piece by piece."""
        return content_type.lower().startswith(b"text/event-stream")

    # ── errors ──

    def error_body(self, error: WireError) -> bytes:
        """An error answer as clients of this dialect expect it."""
        raise NotImplementedError

    def error_event(self, error: WireError) -> bytes:
        """The same inside a stream that has begun, ready to be sent behind whatever was sent before."""
        raise NotImplementedError

    # ── as it is translated ──

    def read_request(self, body: bytes, *, model: str = "", stream: bool | None = None) -> Conversation:
        """Raises MalformedBodyError; `param` names the field, as precisely as `messages[2].content`."""
        raise NotImplementedError

    def write_request(self, conversation: Conversation, limits: Limits) -> Written:
        """Raises InexpressibleError for what the dialect cannot say and must not leave out."""
        raise NotImplementedError

    def read_reply(self, body: bytes) -> Reply:
        """Raises MalformedAnswerError."""
        raise NotImplementedError

    def write_reply(self, reply: Reply, asked: Conversation) -> bytes:
        raise NotImplementedError

    def stream_reader(self) -> StreamReader:
        raise NotImplementedError

    def stream_writer(self, asked: Conversation) -> StreamWriter:
        raise NotImplementedError


ERROR_TYPES: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "rate_limit_error",
    ErrorKind.EXCEEDS_LIMIT: "rate_limit_error",
    ErrorKind.OVERLOADED: "server_error",
    ErrorKind.QUOTA_EXHAUSTED: "insufficient_quota",
    ErrorKind.AUTHENTICATION: "authentication_error",
    ErrorKind.PERMISSION_DENIED: "permission_error",
    ErrorKind.CONTEXT_TOO_LONG: "invalid_request_error",
    ErrorKind.CONTENT_POLICY: "invalid_request_error",
    ErrorKind.INVALID_REQUEST: "invalid_request_error",
    ErrorKind.SERVER_ERROR: "server_error",
}
"""OpenAI's `type` for what a provider's error means."""
ERROR_CODES: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "rate_limit_exceeded",
    ErrorKind.EXCEEDS_LIMIT: "request_exceeds_limit",
    ErrorKind.OVERLOADED: "overloaded",
    ErrorKind.QUOTA_EXHAUSTED: "insufficient_quota",
    ErrorKind.AUTHENTICATION: "upstream_authentication_failed",
    ErrorKind.PERMISSION_DENIED: "upstream_permission_denied",
    ErrorKind.CONTEXT_TOO_LONG: "context_length_exceeded",
    ErrorKind.CONTENT_POLICY: "content_policy_violation",
    ErrorKind.INVALID_REQUEST: "invalid_value",
    ErrorKind.SERVER_ERROR: "upstream_error",
}
"""OpenAI's `code` for it."""

"""The values that adapters give and take."""

from __future__ import annotations

import enum
from typing import Any, Protocol

import msgspec


class Operation(enum.StrEnum):
    """What is asked of a model, by its OpenTelemetry GenAI name."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    IMAGE_GENERATION = "image_generation"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    MODERATION = "moderation"
    RERANK = "rerank"
    OCR = "ocr"
    REALTIME = "realtime"
    PASSTHROUGH = "passthrough"
    """Whatever the caller asks of a provider's own API, and the gateway does not understand."""

    # That of its text: Enum's own is a Python function, and operations are looked up several times in a request.
    __hash__ = str.__hash__


Units = tuple[tuple[str, int], ...]
"""What is billed by something else than tokens, as names and whole amounts: `millisecond` (of sound), `character`,
`image` (perhaps with quality and size: `image:high:1024x1024`), `search`, `page` (of a document). Empty, as for most calls: nothing is."""


class Usage(msgspec.Struct, frozen=True):
    """What one call used, in disjoint buckets of tokens.

    The buckets add up to what the provider reported: cached tokens are not in `input`, reasoning not in `output`.
    """

    input: int = 0
    """Uncached text input."""
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    """Text output without reasoning."""
    reasoning: int = 0
    audio_output: int = 0
    consistent: bool = True
    """False when the provider's own figures contradict each other; the row is then flagged for review."""
    units: Units = ()

    @property
    def input_tokens(self) -> int:
        """All input, as OpenTelemetry counts it: cached tokens included."""
        return (
            self.input
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def output_tokens(self) -> int:
        """All output, reasoning included."""
        return self.output + self.reasoning + self.audio_output

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class ErrorKind(enum.StrEnum):
    """What a provider's error answer means for what happens next."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    QUOTA_EXHAUSTED = "quota_exhausted"
    EXCEEDS_LIMIT = "request_exceeds_limit"
    """This one request is more than a limit of the account takes in a minute: it never fits, however long one waits."""
    AUTHENTICATION = "authentication"
    PERMISSION_DENIED = "permission_denied"
    """Our credential is known and may not do this. It may be this request alone: a model, a country, what it asks for."""
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_POLICY = "content_policy"
    INVALID_REQUEST = "invalid_request"
    SERVER_ERROR = "server_error"

    @property
    def blames_credential(self) -> bool:
        """The provider refuses our credential, not the caller's request."""
        return self in {ErrorKind.AUTHENTICATION, ErrorKind.PERMISSION_DENIED, ErrorKind.QUOTA_EXHAUSTED}

    @property
    def worth_another_target(self) -> bool:
        """Another deployment may well answer the same request."""
        return self.blames_credential or self in {
            ErrorKind.RATE_LIMITED,
            ErrorKind.EXCEEDS_LIMIT,
            ErrorKind.OVERLOADED,
            ErrorKind.SERVER_ERROR,
        }


JSONObject = dict[str, Any]
Headers = tuple[tuple[bytes, bytes], ...]
"""Lower-case names and values, as they go on the wire."""


class NativeCall(msgspec.Struct, frozen=True):
    """What a `POST` to a path of a provider's own API asks, as far as the path tells."""

    dialect: str
    before_model: str
    """The path, up to the model that it names."""
    model: str = ""
    after_model: str | None = None
    """What follows the model; None: the path names none."""
    stream: bool | None = None
    """None: the body says it."""


class TokenRequest(msgspec.Struct, frozen=True):
    """A `POST` that brings a short-lived token."""

    url: str
    headers: Headers
    body: bytes


class Signer(Protocol):
    """Makes the headers that authenticate each single request of one credential. Belongs to one event loop; no I/O.

    Where it needs a token from elsewhere, it says how to ask for it, and is told the answer.
    """

    def token_request(self, now: float) -> TokenRequest | None:
        """How to get the token that is lacking at `now` (seconds since the epoch); None: nothing is lacking."""

    def take_token(self, status: int, body: bytes, now: float) -> None:
        """Raises ValueError, with a text that holds no secret, for an answer without a token."""

    def headers(self, method: str, url: str, body: bytes, now: float) -> Headers:
        """For one request to `url`, query included."""

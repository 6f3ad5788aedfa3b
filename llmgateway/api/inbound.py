"""What one HTTP request brings, read once from its headers: key, address, ids, and what may go on to the provider."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from llmgateway.api.asgi_types import KNOWN_HEAD, WHOLE_BODY, Message, RawHeaders, Receive, Scope
from llmgateway.api.known_heads import KnownHead
from llmgateway.pipeline.errors import (
    BadRequestError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import dialects_of_client

BODY_PIECE_S = 30
"""How long the next piece of a body may take."""

_NOT_FORWARDED = frozenset(
    {
        b"host", b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"content-type", b"accept-encoding",
        b"expect", b"cookie", b"forwarded", b"via", b"origin", b"referer", b"x-real-ip", b"x-request-id",
        b"x-end-user-id", b"x-request-timeout-ms", b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key",
        # They change what is asked after it was admitted: a read becomes a call, an answer keeps its usage to itself.
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-goog-fieldmask",
        # They change who pays, or at which price: the operator's credential and price list decide both. Where a header
        # alone unlocks a feature (`anthropic-beta`), usage tells what it cost, so that one goes on.
        b"openai-organization", b"openai-project", b"x-goog-user-project", b"x-vertex-ai-llm-request-type",
        b"x-vertex-ai-llm-shared-request-type", b"x-amzn-bedrock-service-tier",
        b"x-amzn-bedrock-performanceconfig-latency",
        # They are credentials, whatever the operator's are: a provider that gets two refuses both.
        b"ocp-apim-subscription-key", b"x-goog-iam-authorization-token", b"x-serverless-authorization",
    }
)  # fmt: skip
_NOT_FORWARDED_PREFIXES = (b"x-forwarded-", b"x-gateway-", b"sec-", b"access-control-", b"x-amz-")
"""Those of the last are part of a signature, and the gateway's own is the one that counts."""
_CLIENT_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Inbound(msgspec.Struct):
    """The headers of a request that the gateway itself looks at, and those that it passes on."""

    forwarded: RawHeaders
    body: bytes | None = None
    """All of it, where it came with the headers; None: ask `receive`."""
    secret: bytes | None = None
    key_header: bytes = b""
    """The header that brought the secret; empty: none did."""
    origin: bytes | None = None
    content_type: bytes = b""
    content_length: int | None = None
    client_request_id: str = ""
    end_user: str = ""
    forwarded_for: bytes | None = None
    requested_headers: bytes | None = None
    model: str = ""
    """`x-gateway-model`: whose limits and prices hold for a call that names no model otherwise."""
    timeout_ms: str = ""
    """`x-request-timeout-ms`, as it was sent."""
    strict: bool = False
    """`x-gateway-strict: true`: refuse what a provider's dialect cannot say, rather than leave it out."""
    bypass_health: bool = False
    """`x-gateway-bypass-health: true`: send it where others are not sent at present, if its key may ask for that."""
    session: str = ""
    """`x-gateway-session-id`: which requests belong together, for aliases that send them to the same target."""
    usage_comment: bool = False
    """`x-gateway-usage-comment: true`: end a stream with a comment on what it used and cost."""
    task_type: str = ""
    """`x-gateway-task-type`: what kind of task it is, for rules of aliases."""
    speaks: Mapping[str, Dialect] = {}
    """What the client means where it calls paths of other dialects."""
    cache: str = ""
    """`x-gateway-cache`: what becomes of kept answers."""
    provider_key: bytes = b""
    """`x-gateway-provider-key`: the caller's own key at a provider, to be used in place of the gateway's credential."""
    provider: str = ""
    """`x-gateway-provider`: whose key that is."""


class InboundReader:
    """Reads requests according to the operator's list of headers that carry keys."""

    def __init__(self, key_headers: tuple[str, ...]) -> None:
        self._key_headers = tuple(name.lower().encode("latin-1") for name in key_headers)
        self._not_forwarded = _NOT_FORWARDED | set(self._key_headers)

    def read(self, scope: Scope) -> Inbound:
        extensions = scope.get("extensions") or {}
        body: bytes | None = extensions.get(WHOLE_BODY)
        known: KnownHead | None = extensions.get(KNOWN_HEAD)
        if known is None or body is None:
            return self._read(scope, body)
        if known.reading is None:
            known.reading = self._read(scope, None)
        inbound: Inbound = known.reading.__copy__()
        inbound.body, inbound.content_length = body, len(body)
        return inbound

    def _read(self, scope: Scope, body: bytes | None) -> Inbound:
        inbound = Inbound([], body)
        keys: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name not in self._not_forwarded:
                if not name.startswith(_NOT_FORWARDED_PREFIXES):
                    inbound.forwarded.append((name, value))
                elif name == b"x-forwarded-for":
                    inbound.forwarded_for = value
                elif name == b"access-control-request-headers":
                    inbound.requested_headers = value
                else:
                    _note_own(inbound, name, value)
            elif name in self._key_headers:
                keys[name] = value
            else:
                _note(inbound, name, value)
        inbound.key_header, inbound.secret = self._secret(keys, scope["query_string"])
        agent = next((value for name, value in inbound.forwarded if name == b"user-agent"), b"")
        inbound.speaks = dialects_of_client(agent)
        return inbound

    def _secret(self, keys: dict[bytes, bytes], query: bytes) -> tuple[bytes, bytes | None]:
        """The header that brought it, and the secret itself."""
        for name in self._key_headers:
            value = keys.get(name)
            if value is None:
                continue
            if name != b"authorization":
                return name, value.strip()
            scheme, _, secret = value.partition(b" ")
            if scheme.lower() == b"bearer" and secret.strip():
                return name, secret.strip()
        if b"key=" not in query:
            return b"", None
        found = parse_qs(query.decode("latin-1")).get("key")
        return b"", found[0].encode("latin-1", "replace") if found else None


def _note_own(inbound: Inbound, name: bytes, value: bytes) -> None:
    """What is said to the gateway alone."""
    if name == b"x-gateway-model":
        inbound.model = value.decode("utf-8", "replace")[:200]
    elif name == b"x-gateway-strict":
        inbound.strict = value.strip().lower() in {b"true", b"1"}
    elif name == b"x-gateway-bypass-health":
        inbound.bypass_health = value.strip().lower() in {b"true", b"1"}
    elif name == b"x-gateway-cache":
        inbound.cache = value.strip().lower().decode("utf-8", "replace")[:40]
    elif name == b"x-gateway-session-id":
        inbound.session = value.strip().decode("utf-8", "replace")[:200]
    elif name == b"x-gateway-usage-comment":
        inbound.usage_comment = value.strip().lower() in {b"true", b"1"}
    elif name == b"x-gateway-task-type":
        inbound.task_type = value.strip().decode("utf-8", "replace")[:200]
    elif name == b"x-gateway-provider-key":
        inbound.provider_key = value.strip()
    elif name == b"x-gateway-provider":
        inbound.provider = value.strip().decode("utf-8", "replace")[:200]


def _note(inbound: Inbound, name: bytes, value: bytes) -> None:
    if name == b"content-type":
        inbound.content_type = value
    elif name == b"content-length":
        # Zeros may be any number, and Python refuses to read thousands.
        inbound.content_length = int(value.lstrip(b"0") or b"0") if value.isdigit() else None
    elif name == b"origin":
        inbound.origin = value
    elif name == b"x-request-id" and _CLIENT_REQUEST_ID.fullmatch(value):
        inbound.client_request_id = value.decode("ascii")
    elif name == b"x-request-timeout-ms":
        inbound.timeout_ms = value.decode("latin-1").strip()
    elif name == b"x-end-user-id":
        inbound.end_user = value.decode("utf-8", "replace")[:200]


def requested_timeout_s(inbound: Inbound) -> float | None:
    """How long the client will wait for the whole answer; None: it does not say.

    Raises:
        BadRequestError: what it says is no time.
    """
    said = inbound.timeout_ms
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and int(said[:12]) > 0):
        raise BadRequestError(
            "`x-request-timeout-ms` must be a whole number of milliseconds above 0. Leave it out for the usual time.",
            param="x-request-timeout-ms",
        )
    return int(said[:12]) / 1000


def require_json(inbound: Inbound) -> None:
    """Raises UnsupportedMediaTypeError for a body that says it is something else."""
    media_type = inbound.content_type.partition(b";")[0].strip().lower()
    if media_type and media_type != b"application/json" and not media_type.endswith(b"+json"):
        raise UnsupportedMediaTypeError(
            f"The content type is '{media_type.decode('latin-1')}'. Send JSON with `Content-Type: application/json`."
        )


async def read_body(receive: Receive, inbound: Inbound, limit: int, *, timeout_s: float) -> bytes:
    """The whole body, which may take `timeout_s` to come.

    Raises:
        RequestTooLargeError: it is larger than `limit` bytes; as much as possible is told before reading it.
        RequestTimeoutError: nothing came for too long, or the end did not come in time.
        ClientLeftError: the client left while sending.
    """
    if inbound.content_length is not None and inbound.content_length > limit:
        raise _too_large(limit)
    if inbound.body is not None:
        if len(inbound.body) > limit:
            raise _too_large(limit)
        return inbound.body
    pieces: list[bytes] = []
    size = 0
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        message = await _next_piece(receive, deadline, timeout_s)
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return b"".join((*pieces, piece)) if pieces else piece
        pieces.append(piece)


async def _next_piece(receive: Receive, deadline: float, timeout_s: float) -> Message:
    now = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(min(now + BODY_PIECE_S, deadline)):
            return await receive()
    except TimeoutError:
        reason = (
            f"The request body was not complete after {timeout_s:g} s. Send it faster, or ask an admin for more time."
            if deadline <= now + BODY_PIECE_S
            else f"Nothing of the request body came for {BODY_PIECE_S} s. Send it again."
        )
        # Else whoever sends so slowly keeps the connection.
        raise RequestTimeoutError(reason, headers=((b"connection", b"close"),)) from None


class ClientLeftError(Exception):
    """There is nobody left to answer."""


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The request body is larger than {limit // 2**20} MB. Send less, or ask an admin to raise the limit."
    )

"""`GET /v1/realtime`: sessions over a WebSocket, also under a provider's name (`/openai/v1/realtime`)."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from llmgateway.api.asgi_types import Message, RawHeaders, Receive, Scope, Send
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.native import NativeSurface, is_withheld
from llmgateway.api.own_keys import refuse_own_key
from llmgateway.pipeline.errors import BadRequestError, NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.sessions import Handshake, Lifetime, Session, Sessions
from llmgateway.pipeline.sockets import Frame, SocketClosedError, sendable, short
from providers.adapters.body import RequestHead
from providers.adapters.dialects.registry import get_dialect

REALTIME = get_dialect("openai.realtime")
PATH = "/v1/realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How browsers send a key: they cannot set headers."""
PLAIN_SUBPROTOCOL = "realtime"
_OWN_QUERY = {"key", "model", "deployment", "api-version"}
"""Names in a query that are the gateway's to say to a provider."""


class ClientSocket:
    """The caller's end of a connection, as ASGI has it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> Frame:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise SocketClosedError(sendable(message.get("code") or 1005), message.get("reason") or "")
        text: str | None = message.get("text")
        if text is not None:
            return text
        data: bytes = message["bytes"]
        return data

    async def send(self, frame: Frame) -> None:
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._tell({"type": "websocket.send", kind: frame})

    async def accept(self, subprotocol: str | None, headers: RawHeaders) -> None:
        await self._tell({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def close(self, code: int, reason: str) -> None:
        await self._tell({"type": "websocket.close", "code": code, "reason": short(reason)})

    async def _tell(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # What servers raise once the caller is gone.
            raise SocketClosedError(1001) from None


class RealtimeSurface:
    """Answers the handshakes of sessions."""

    def __init__(self, gateway: Gateway, native: NativeSurface, lifetime: Lifetime) -> None:
        self._gateway = gateway
        self._native = native
        self._sessions = Sessions(gateway, lifetime)

    async def serve(self, exchange: HttpExchange, scope: Scope, send: Send) -> str:
        """A session from handshake to end. Returns the code of the error that ended it, or nothing.

        Raises:
            GatewayError: it was refused; the handshake is not answered yet.
        """
        exchange.responder.dialect = REALTIME
        provider = self._provider(exchange)
        offered = scope.get("subprotocols") or []
        secret = exchange.inbound.secret or _secret(offered)
        refuse_own_key(exchange.inbound)
        key = exchange.key = await self._gateway.authenticate(secret, client_ip=exchange.client_ip)
        query = parse_qsl(exchange.query.decode("latin-1"), keep_blank_values=True)
        model = dict(query).get("model") or exchange.inbound.model
        if not model:
            raise BadRequestError("Name the model in the query: `/v1/realtime?model=…`.", param="model")
        exchange.head = RequestHead(model=model, stream=True)
        request = self._request(exchange, provider)
        plain = tuple([each for each in offered if not each.startswith(KEY_SUBPROTOCOL)])
        onward = urlencode(
            [(name, value) for name, value in query if name not in _OWN_QUERY and not is_withheld(name, value)]
        )
        session = await self._sessions.open(Handshake(request, secret, onward, plain), key)
        client = ClientSocket(exchange.receive, send)
        chosen = session.subprotocol or (PLAIN_SUBPROTOCOL if PLAIN_SUBPROTOCOL in plain else None)
        try:
            await exchange.receive()  # That it wants to connect, which ASGI says once.
            await client.accept(chosen, _headers(exchange, session))
            exchange.responder.started = True
        except BaseException:
            await session.abandon()
            raise
        return await session.run(client)

    def _provider(self, exchange: HttpExchange) -> str:
        """The provider under whose name the caller came; empty: under none.

        Raises:
            NotFoundError: there is nothing for a WebSocket.
        """
        exchange.label = PATH
        if exchange.path == PATH:
            return ""
        prefix, slash, rest = exchange.path[1:].partition("/")
        provider = self._native.provider_at(prefix, REALTIME)
        if not provider or slash + rest not in {PATH, "/realtime"}:
            exchange.label = "(other)"
            raise NotFoundError(f"There is no WebSocket at {exchange.path}. See the documentation for what there is.")
        exchange.label = f"/{prefix}/{{path}}"
        return provider

    def _request(self, exchange: HttpExchange, provider: str) -> ModelRequest:
        inbound, head = exchange.inbound, exchange.head
        if head is None:
            raise RuntimeError("the model is known by now")
        return ModelRequest(
            id=exchange.request_id,
            path=exchange.label,
            dialect=REALTIME,
            body=b"",
            head=head,
            headers=inbound.forwarded,
            client_ip=exchange.client_ip,
            client_request_id=inbound.client_request_id,
            end_user=inbound.end_user,
            started_at=exchange.started_at,
            received=exchange.received,
            authenticated=self._gateway.clock.monotonic(),
            provider=provider,
            input_estimate=0,
            bypass_health=inbound.bypass_health,
            session=inbound.session,
            task_type=inbound.task_type,
        )


def refusing(send: Send) -> Send:
    """Answers of HTTP, as a server sends them in place of a WebSocket."""

    async def send_refusal(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_refusal


def refusing_bluntly(send: Send) -> Send:
    """The same for a server that can only refuse without saying why."""

    async def send_refusal(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send({"type": "websocket.close", "code": 1008})

    return send_refusal


def _secret(offered: list[str]) -> bytes | None:
    found = next((each for each in offered if each.startswith(KEY_SUBPROTOCOL)), "")
    return found.removeprefix(KEY_SUBPROTOCOL).encode("latin-1", "replace") or None


def _headers(exchange: HttpExchange, session: Session) -> RawHeaders:
    deployment = session.deployment
    return [
        (b"x-request-id", exchange.request_id.encode()),
        (b"x-gateway-model", session.alias.name.encode("ascii", "backslashreplace")),
        (b"x-gateway-provider", deployment.provider.encode("ascii", "backslashreplace")),
        (b"x-gateway-deployment", deployment.name.encode("ascii", "backslashreplace")),
    ]

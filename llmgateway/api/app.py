"""The data plane's front door: path → endpoint, cross-origin rules, error envelope, one log line for every request."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any

from llmgateway.api import anthropic, gemini, health, kept, media, metrics, mistral, native, openai, realtime, simple
from llmgateway.api.access_lines import log_answer
from llmgateway.api.addresses import ClientAddress
from llmgateway.api.asgi_types import Receive, Scope, Send
from llmgateway.api.cors import Cors
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.express import ExpressDoor
from llmgateway.api.inbound import ClientLeftError, InboundReader
from llmgateway.api.responses import DisconnectWatch, Responder
from llmgateway.api.routes import READ, Endpoint, Finder, Route
from llmgateway.api.stored_responses import StoredResponses
from llmgateway.conf import Conf
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.errors import GatewayError, MethodNotAllowedError, NotFoundError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.sessions import Lifetime
from llmgateway.pipeline.sockets import SocketClosedError
from llmgateway.pipeline.turns import QueueLeftError
from providers.adapters.addresses import RESERVED_NAMES

logger = logging.getLogger(__name__)


def is_data_plane(path: str) -> bool:
    """Whether a path is answered here rather than by Django."""
    return path.startswith(("/v1/", "/v1beta/", "/v2/", "/api/", "/health/")) or path in {"/v1", "/health", "/metrics"}


def is_ours(path: str) -> bool:
    """Whether a path is certainly a page, and no provider's: its first segment cannot be a provider's name."""
    return path.count("/") < 2 or path[1:].partition("/")[0] in RESERVED_NAMES


class DataPlane:
    """The ASGI application of all data-plane paths."""

    def __init__(self, gateway: Gateway, conf: Conf, status: health.Status) -> None:
        self._gateway = gateway
        self._reader = InboundReader(tuple(conf.key_headers))
        self._addresses = ClientAddress(tuple(conf.trusted_proxies))
        self._cors = Cors(tuple(conf.cors_origins))
        self.ids = RequestIds()
        self.express = ExpressDoor(self, gateway, self._reader, self._addresses)
        self._body_timeout_s = conf.request_body_timeout_s
        health_pages = health.HealthPages(status, details=conf.health_details)
        self._kept = kept.KeptSurface(gateway, gateway.responses.book)
        self._native = native.NativeSurface(gateway, self._kept.find_below)
        self._gemini = gemini.GeminiSurface(self._native.provider_at)
        self._finders: tuple[Finder, ...] = (
            self._gemini.find,
            openai.find,
            StoredResponses(gateway.responses.book).find,
            self._kept.find,
            self._native.find,
            self._native.find_own,
            openai.find_below_name,
            mistral.find_below_name,
        )
        lifetime = Lifetime(idle_s=conf.realtime_idle_s, total_s=conf.realtime_max_s)
        self._realtime = realtime.RealtimeSurface(gateway, self._native, lifetime)
        pages: dict[str, Endpoint] = {
            "/health": health_pages.overview,
            "/health/live": health_pages.live,
            "/health/ready": health_pages.ready,
            "/metrics": metrics.MetricsPage(conf, status).show,
        }
        self._routes: dict[str, Route] = {
            **openai.routes(),
            **anthropic.routes(),
            **media.routes(),
            **mistral.routes(),
            **simple.routes(),
            **{path: Route(READ, page, openai.CHAT, path) for path, page in pages.items()},
        }

    def serves(self, path: str) -> bool:
        """Whether a path that is none of the gateway's own belongs to a provider, or stands below a name that SDKs add."""
        return self._native.serves(path) or any(
            find(path) for find in (self._gemini.find, openai.find_below_name, mistral.find_below_name)
        )

    def fixed_route(self, path: str) -> Route | None:
        """The route of a path that is the same for everybody."""
        return self._routes.get(path)

    async def open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the handshake of a WebSocket, and be its session until it ends."""
        can_say_why = "websocket.http.response" in (scope.get("extensions") or {})
        refuse = realtime.refusing(send) if can_say_why else realtime.refusing_bluntly(send)
        exchange = self._begin({**scope, "method": "GET"}, receive, refuse)
        try:
            error_type = await self._realtime.serve(exchange, scope, send)
            self._log(exchange, 101, error_type)
        except GatewayError as error:
            await self._refuse(exchange, error)
        except SocketClosedError:
            self._log(exchange, 499, "client_left")
        except Exception:
            logger.exception("a session failed inside the gateway", extra={"request_id": exchange.request_id})
            if not exchange.responder.started:
                await self._refuse(exchange, GatewayError("Something went wrong inside the gateway. Try again."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._begin(scope, receive, send)
        if exchange.method == "OPTIONS":
            preflight = self._cors.preflight(exchange.inbound.requested_headers)
            await exchange.responder.start_and_end(204, preflight)
        else:
            await self._answer(exchange, self._serve(exchange))

    async def resume(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        """Answer a request that was begun without a task."""
        exchange = self._begin(scope, receive, send, of=call)
        await self._answer(exchange, self._resume(exchange, call))

    async def _serve(self, exchange: HttpExchange) -> None:
        await self._endpoint(exchange)(self._gateway, exchange)

    async def _resume(self, exchange: HttpExchange, call: Call) -> None:
        self._endpoint(exchange)
        exchange.responder.dialect = call.request.dialect
        exchange.responder.started = call.begun is not None
        exchange.key, exchange.head = call.key, call.request.head
        watch = exchange.watch = DisconnectWatch(exchange.receive)
        call.go_on_in(watch)
        try:
            await self._gateway.resume(call, exchange.responder, watch)
        finally:
            watch.stop()

    async def _answer(self, exchange: HttpExchange, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, and tell the client and the log what went wrong."""
        try:
            await work
            if exchange.is_listing:
                self._log(exchange, 200, "")
        except GatewayError as error:
            await self._refuse(exchange, error)
        except ClientLeftError:
            self._log(exchange, 499, "client_left")
        except QueueLeftError:
            self._log(exchange, 499, "client_left")
        except asyncio.CancelledError:
            if exchange.watch is None or not exchange.watch.client_left:
                raise
        except Exception:
            logger.exception("a request failed inside the gateway", extra={"request_id": exchange.request_id})
            if not exchange.responder.started:
                await self._refuse(exchange, GatewayError("Something went wrong inside the gateway. Try again."))

    def _begin(self, scope: Scope, receive: Receive, send: Send, *, of: Call | None = None) -> HttpExchange:
        """`of`: it has begun before, and is this call's."""
        inbound = self._reader.read(scope)
        clock = self._gateway.clock
        request_id = self.ids.next() if of is None else of.request.id
        cross_origin = self._cors.headers(inbound.origin) if inbound.origin is not None else None
        return HttpExchange(
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            raw_path=scope.get("raw_path", b"").decode("latin-1") or scope["path"],
            query=scope["query_string"],
            client_ip=self._addresses.of(scope, inbound.forwarded_for),
            started_at=clock.time() if of is None else of.request.started_at,
            received=clock.monotonic() if of is None else of.request.received,
            inbound=inbound,
            receive=receive,
            responder=Responder(send, b"x-request-id: %b\r\n" % request_id.encode(), openai.CHAT, cross_origin),
            body_timeout_s=self._body_timeout_s,
        )

    def _endpoint(self, exchange: HttpExchange) -> Endpoint:
        path = exchange.path
        route = self._routes.get(path)
        if route is None:
            route = next((found for find in self._finders if (found := find(path)) is not None), None)
        if route is None:
            raise NotFoundError(f"There is no {exchange.method} {path}. See the documentation for what there is.")
        exchange.label = route.label
        exchange.responder.dialect = route.dialect
        exchange.responder.tell_request_id(exchange.request_id)
        if route.lines:
            exchange.responder.tell_always(route.lines)
        if exchange.method not in route.methods:
            raise MethodNotAllowedError(
                f"{path} does not take {exchange.method}; use {route.methods[0]}.",
                headers=((b"allow", ", ".join(route.methods).encode()),),
            )
        return route.endpoint

    async def _refuse(self, exchange: HttpExchange, error: GatewayError) -> None:
        exchange.key = exchange.key or error.key
        self._log(exchange, error.status, error.code)
        await exchange.responder.error(error)

    def _log(self, exchange: HttpExchange, status: int, code: str) -> None:
        log_answer(self._gateway, exchange, status, code)


class RequestIds:
    """Ids that are unique across processes and hosts, sort by time, and cost next to nothing."""

    def __init__(self) -> None:
        self._process = os.urandom(5).hex()
        self._numbers = itertools.count(int.from_bytes(os.urandom(3), "big"))

    def next(self) -> str:
        """`req_`, the time in milliseconds, the process, a number; 36 characters."""
        return f"req_{time.time_ns() // 1_000_000:011x}{self._process}{next(self._numbers) & 0xFFFFFFFFFFF:011x}"

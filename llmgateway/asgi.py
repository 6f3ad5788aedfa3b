"""The ASGI application: data-plane paths go straight to `llmgateway.api`, everything else to Django and Channels.

`./gateway serve` has the pages made in a process of their own (`llmgateway.pages`); under other servers they are made here.
"""

from __future__ import annotations

import logging

# It sets Django up, which the others need.
from llmgateway.pages.applications import Pages

# isort: split
from llmgateway import wiring
from llmgateway.api.app import is_data_plane, is_ours
from llmgateway.api.asgi_types import Receive, Scope, Send
from llmgateway.page_turns import AT_ONCE
from llmgateway.pages.relay import Relay

logger = logging.getLogger(__name__)

pages = Relay(Pages(at_once=AT_ONCE))
"""`serve` gives it a process to make them in."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Sorts by protocol and path. Servers without lifespan support (daphne) start the data plane by the first request."""
    kind = scope["type"]
    if kind == "http":
        if await _is_for_data_plane(scope["path"]):
            await (await _runtime()).data_plane(scope, receive, send)
        else:
            await pages(scope, receive, send)
    elif kind == "websocket":
        if await _is_for_data_plane(scope["path"]):
            await (await _runtime()).data_plane.open_socket(scope, receive, send)
        else:
            await pages(scope, receive, send)
    elif kind == "lifespan":
        await _lifespan(receive, send)


async def _is_for_data_plane(path: str) -> bool:
    return is_data_plane(path) or (not is_ours(path) and (await _runtime()).data_plane.serves(path))


async def _runtime() -> wiring.Runtime:
    return wiring.current() or await wiring.start()


async def _stop() -> None:
    if pages.keeper is not None:
        pages.keeper.begin_end()
    await wiring.stop()
    if pages.keeper is not None:
        await pages.keeper.stop()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await wiring.start()
            except Exception as error:
                logger.exception("the data plane could not start")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await _stop()
            await send({"type": "lifespan.shutdown.complete"})
            return

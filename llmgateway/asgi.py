"""The ASGI application: data-plane paths go straight to `llmgateway.api`, everything else to Django and Channels."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")

from django.core.asgi import get_asgi_application

_django: Any = get_asgi_application()

# These need Django to be set up.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from dashboard.routing import websocket_urlpatterns  # noqa: E402
from llmgateway import wiring  # noqa: E402
from llmgateway.api.app import is_data_plane, is_ours  # noqa: E402
from llmgateway.api.asgi_types import Receive, Scope, Send  # noqa: E402
from llmgateway.page_turns import PageTurns  # noqa: E402

logger = logging.getLogger(__name__)

django_application = PageTurns(_django)
routes: Any = websocket_urlpatterns
websocket_application: Any = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routes)))


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Sorts by protocol and path. Servers without lifespan support (daphne) start the data plane by the first request."""
    kind = scope["type"]
    if kind == "http":
        if await _is_for_data_plane(scope["path"]):
            await (await _runtime()).data_plane(scope, receive, send)
        else:
            await django_application(scope, receive, send)
    elif kind == "websocket":
        if await _is_for_data_plane(scope["path"]):
            await (await _runtime()).data_plane.open_socket(scope, receive, send)
        else:
            await websocket_application(scope, receive, send)
    elif kind == "lifespan":
        await _lifespan(receive, send)


async def _is_for_data_plane(path: str) -> bool:
    return is_data_plane(path) or (not is_ours(path) and (await _runtime()).data_plane.serves(path))


async def _runtime() -> wiring.Runtime:
    return wiring.current() or await wiring.start()


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
            await wiring.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return

"""The ASGI applications of admin, dashboard and management API, whichever process makes the pages. No data plane here."""

from __future__ import annotations

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
from llmgateway.api.asgi_types import Receive, Scope, Send  # noqa: E402
from llmgateway.page_turns import PageTurns  # noqa: E402

_routes: Any = websocket_urlpatterns
_sockets: Any = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(_routes)))


class Pages:
    """Answers requests for pages, and the dashboard's WebSockets. Used from one event loop."""

    def __init__(self, *, at_once: int) -> None:
        self._turns = PageTurns(_django, at_once=at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _sockets(scope, receive, send)
        else:
            await self._turns(scope, receive, send)

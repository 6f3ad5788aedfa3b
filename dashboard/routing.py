"""The dashboard's WebSocket paths; `llmgateway.asgi` puts sessions and the check of the origin in front."""

from typing import Any

from django.urls import re_path

from dashboard.consumers import NoSuchSocket, TeamConsumer

team_consumer: Any = TeamConsumer.as_asgi()  # Django's types know views alone.
no_such_socket: Any = NoSuchSocket.as_asgi()

websocket_urlpatterns = [
    re_path(r"^ws/teams/(?P<name>.+)/$", team_consumer),
    re_path(r"", no_such_socket),
]

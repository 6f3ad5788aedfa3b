"""The dashboard's WebSocket paths; `llmgateway.asgi` puts sessions and the check of the origin in front."""

from django.urls import re_path

from dashboard.consumers import TeamConsumer

websocket_urlpatterns = [
    re_path(r"^ws/teams/(?P<name>.+)/$", TeamConsumer.as_asgi()),
]

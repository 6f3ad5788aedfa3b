"""How often one token or person may ask."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from llmgateway.management_api.principals import principal_of


class PrincipalThrottle(SimpleRateThrottle):
    """Counts per token or person and process: it keeps a script that went wild from occupying the database."""

    scope = "management-api"
    rate = "3000/min"

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        principal = principal_of(request)
        return None if principal is None else f"management-api-requests:{principal.id}"

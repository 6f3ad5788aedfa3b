"""How often one token or person may ask."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from llmgateway.management_api.counting import count_this_minute
from llmgateway.management_api.principals import principal_of


class PrincipalThrottle(BaseThrottle):
    """Counts per token or person: it keeps a script that went wild from occupying the database."""

    per_minute = 3000
    _wait_s: int | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        principal = principal_of(request)
        if principal is None:
            return True
        count, self._wait_s = count_this_minute(f"requests:{principal.id}")
        return count <= self.per_minute

    def wait(self) -> float | None:
        return self._wait_s

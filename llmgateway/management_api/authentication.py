"""Tokens in the `Authorization` header, and a brake on those who guess them."""

from __future__ import annotations

import ipaddress

from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from llmgateway import key_secrets
from llmgateway.audit import remote_address
from llmgateway.management_api.counting import count_this_minute
from llmgateway.management_api.models import ManagementToken
from llmgateway.management_api.tokens import PREFIX, token_of, token_used

FAILURES_PER_MINUTE = 20
"""From one address; what comes beyond is answered 429. A valid token works all the same."""


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer gw-mgmt-…`. Other requests are left to the session."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ManagementToken] | None:
        kind, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if kind.lower() != "bearer":
            return None
        address = remote_address(request) or ""
        token = token_of(secret.strip())
        if token is None or token.state != "active":
            count_failure(address)
            raise AuthenticationFailed(_refusal(secret.strip(), token))
        token_used(token, address)
        return AnonymousUser(), token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="management API"'


def _refusal(secret: str, token: ManagementToken | None) -> str:
    if token is not None and token.state == "expired":
        return f"The token {token.name} has expired. Ask an admin for a new one."
    if secret.startswith(key_secrets.PREFIX):
        return f"This is an API key. The management API takes tokens, which begin with {PREFIX}."
    return "There is no such token, or it was revoked. Create one in the admin or with `./gateway create-token`."


def count_failure(address: str) -> None:
    """Count a failed attempt.

    Raises:
        Throttled: there were too many from this address in this minute.
    """
    failures, wait_s = count_this_minute(f"failures:{_network(address)}")
    if failures > FAILURES_PER_MINUTE:
        raise Throttled(wait=wait_s, detail="Too many attempts with tokens that are not valid.")


def _network(address: str) -> str:
    """An IPv6 client owns a /64, so that is what is counted."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return address if parsed.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))

"""The signature of a webhook, as Standard Webhooks 1.0 describes it. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac

from billing.reporters.secrets import signing_key


def signed_headers(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers by which a receiver tells who sent `body`, when, and whether it has it already.

    Raises:
        ValueError: `secret` is no signing secret.
    """
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }

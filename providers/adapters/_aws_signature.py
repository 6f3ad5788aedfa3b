"""AWS's Signature Version 4 for requests whose whole body is known.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlsplit

import msgspec

from providers.adapters.types import Headers

ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(msgspec.Struct, frozen=True):
    """An access key; `session_token` where it is a temporary one."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


def signed(
    credentials: Credentials, *, method: str, url: str, body: bytes, region: str, service: str, now: float
) -> Headers:
    """The headers that authenticate one request at `now` (seconds since the epoch). `url` is as it goes on the wire."""
    parts = urlsplit(url)
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-date": moment}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(headers)
    request = "\n".join(
        (
            method,
            # Escapes are escaped once more, for every service but one.
            quote(parts.path or "/", safe="/-_.~"),
            _canonical_query(parts.query),
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.new(_signing_key(credentials, scope), text.encode(), hashlib.sha256).hexdigest()
    authorization = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    sent = {**headers, "authorization": authorization}
    del sent["host"]  # The transport sends it.
    return tuple((name.encode(), value.encode("latin-1")) for name, value in sent.items())


def _signing_key(credentials: Credentials, scope: str) -> bytes:
    key = b"AWS4" + credentials.secret_access_key.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=")[::2] for pair in query.split("&") if pair)
    escaped = sorted((quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in escaped)

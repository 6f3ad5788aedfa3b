"""Posts events to one webhook: signed, within ten seconds, nowhere else than to its own address."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from billing.reporters.addresses import CheckedTransport, PrivateAddressError
from billing.reporters.claims import Outcome
from billing.reporters.models import Delivery, UsageReporter
from billing.reporters.payload import body_of
from billing.reporters.schedule import retry_after_s
from billing.reporters.signature import signed_headers
from llmgateway.http import httpx
from llmgateway.version import version

TIMEOUT_S = 10.0
GONE = 410
OVERLOADED = frozenset({408, 425, 429})


class Webhook:
    """An open client for one reporter. Use it as an async context manager.

    Raises, when it is made:
        ImproperlyConfigured: the secret or a header cannot be read.
    """

    def __init__(self, reporter: UsageReporter, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = reporter.url
        self._secret = reporter.resolve_secret()
        self._batched = reporter.batch_size > 1
        self._client = httpx.AsyncClient(
            transport=transport or CheckedTransport(allow_private=reporter.allow_private_network),
            headers={"user-agent": f"llmgateway/{version()}", **reporter.resolve_headers()},
            timeout=TIMEOUT_S,
            # Proxies and redirects would lead to an address that was not checked.
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, deliveries: Sequence[Delivery]) -> Outcome:
        """One request with these events. The body of the answer is not read."""
        body = body_of([delivery.payload for delivery in deliveries], batched=self._batched)
        now = datetime.now(UTC)
        try:
            headers = {
                **signed_headers(self._secret, message_id=self._id(deliveries), timestamp=int(now.timestamp()), body=body),
                "content-type": "application/json",
            }  # fmt: skip
        except ValueError as error:
            return Outcome(error=f"The signing secret cannot be used: {error}.", unavailable=True)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                return outcome_of(answer, now)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(error=f"The receiver did not answer within {TIMEOUT_S:.0f} s.", unavailable=True)
        except PrivateAddressError as error:
            return Outcome(error=f"{error}.", unavailable=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Outcome(error=f"Not connected: {type(error).__name__} {error}".strip(), unavailable=True)

    def _id(self, deliveries: Sequence[Delivery]) -> str:
        if not self._batched:
            return deliveries[0].event_id
        ids = "\n".join(delivery.event_id for delivery in deliveries)
        return f"batch_{hashlib.sha256(ids.encode()).hexdigest()[:32]}"


def outcome_of(answer: httpx.Response, now: datetime) -> Outcome:
    """What an answer's status says."""
    status = answer.status_code
    if 200 <= status < 300:
        return Outcome()
    if status == GONE:
        return Outcome(error="HTTP 410: the receiver wants no more events.", gone=True)
    if 300 <= status < 400:
        return Outcome(error=f"HTTP {status}: redirects are not followed; write the address they lead to.")
    unavailable = status >= 500 or status in OVERLOADED
    waits = retry_after_s(answer.headers.get("retry-after", ""), now) if unavailable else None
    return Outcome(error=f"HTTP {status}", unavailable=unavailable, retry_after_s=waits)

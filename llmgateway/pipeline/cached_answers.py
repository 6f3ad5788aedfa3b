"""Answers that are kept to be given again, and what keeps them. Shapes only; `llmgateway.stores` implements them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from providers.adapters.types import Usage

LARGEST_ANSWER = 2 * 2**20
"""Bytes. Larger answers are not kept."""
LEASE_S = 5.0
"""Whoever asks a provider for all workers is taken for dead when he was not heard of for so long."""
RENEW_S = 1.5

WHOLE, STREAM, STREAM_WITH_USAGE = "whole", "stream", "stream+usage"
"""How an answer came, and how it is wanted. The usage of the latter was asked for, where the protocol lets callers choose."""


class KeptAnswer(msgspec.Struct, frozen=True):
    """An answer that was complete, as its client got it."""

    body: bytes
    form: str
    media_type: bytes
    stored_at: float
    """Seconds since the epoch."""
    alias: str
    """The one that was asked."""
    deployment_id: int
    deployment: str
    provider: str
    model: str
    """The provider's name for it."""
    response_model: str
    usage: Usage
    usage_source: str
    cost_pico_usd: int
    """What it cost when it was made."""
    dropped: bytes = b""
    """Of `x-gateway-dropped-params`."""
    similarity: float | None = None
    """It answers another question, which is so much like this one; None: this one."""

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.body) + 1024


class Standing(enum.Enum):
    """What becomes of a request for which nothing is kept."""

    LEAD = "lead"
    """It asks the provider, and others wait for its answer."""
    WAIT = "wait"
    """Somebody else does."""
    ALONE = "alone"
    """It asks for itself: what others got is not to be kept."""


class AnswerStore(Protocol):
    """Keeps answers by the digests of requests. What it cannot do, or not in time, is as if nothing were kept.

    Used from the event loop alone. Only `find` and `claim` may wait, for a moment; nothing here raises.
    """

    @property
    def byte_count(self) -> int:
        """In the memory of this process."""
        ...

    @property
    def entry_count(self) -> int:
        """The same."""
        ...

    async def find(self, digest: bytes) -> KeptAnswer | None: ...

    def keep(self, digest: bytes, answer: KeptAnswer, ttl_s: float) -> None:
        """What is kept already is replaced."""

    async def claim(self, digest: bytes, token: bytes, youngest: float) -> KeptAnswer | Standing:
        """What is kept by now and younger than `youngest`, or who may ask: of all processes one at a time leads."""
        ...

    def renew(self, digest: bytes, token: bytes) -> None:
        """Whoever leads is still there. A claim lasts `LEASE_S`."""

    def release(self, digest: bytes, token: bytes, *, alone: bool) -> None:
        """It leads no more. `alone`: others need not wait for each other, for such an answer is not to be kept."""

    def forget(self, alias: str | None) -> None:
        """Free the memory of the answers of an alias, or of all. Nobody will ask for them again."""

    def resize(self, max_bytes: int) -> None:
        """Keep no more than so much in memory."""


class Nearest(msgspec.Struct, frozen=True):
    """The question most like another one."""

    digest: bytes
    """Of the request, by which its answer is kept."""
    similarity: float
    """Cosine."""


class VectorStore(Protocol):
    """Vectors of questions. Used from the event loop; nothing here raises. What it cannot do in time is a miss."""

    async def nearest(self, group: bytes, vector: Sequence[float], *, similarity: float) -> Nearest | None:
        """The most similar one of the group, if it is as similar as that."""
        ...

    def add(self, group: bytes, vector: Sequence[float], digest: bytes, ttl_s: float) -> None:
        """Without waiting."""

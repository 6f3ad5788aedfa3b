"""Where this process keeps answers: in Redis if there is one, else in its memory; vectors in PostgreSQL if it can."""

from __future__ import annotations

import asyncio
import logging

from django.db import DatabaseError, InterfaceError, connection

from llmgateway.conf import Conf
from llmgateway.pipeline.caching import Caching
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import Clock
from llmgateway.question_vectors import DatabaseVectors, ensure_table
from llmgateway.stores.cache_memory import MemoryAnswers
from llmgateway.stores.cache_redis import RedisAnswers
from llmgateway.stores.vectors_memory import MemoryVectors

logger = logging.getLogger(__name__)

REDIS_S = 0.25
"""How long a look in Redis may take. Longer than for counters: an answer is larger, and without it a provider is asked."""
FIRST_S = 1.0
"""A worker waits so long for Redis before it listens; until it is there, requests are misses."""


class AnswerKeeping:
    """Started and stopped with the data plane, on its event loop."""

    def __init__(self, conf: Conf, gateway: Gateway, clock: Clock) -> None:
        self._gateway = gateway
        self._clock = clock
        self._redis = RedisAnswers(conf.redis_url, timeout_s=REDIS_S) if conf.redis_url else None
        self._vectors: DatabaseVectors | None = None

    async def start(self) -> None:
        """From now on the gateway keeps answers, if it is told to."""
        if self._redis is not None:
            self._redis.start()
            await self._redis.ready(FIRST_S)
        if await asyncio.to_thread(_can_keep_vectors):
            self._vectors = DatabaseVectors()
        self._gateway.caching = Caching(
            self._gateway,
            self._redis or MemoryAnswers(self._clock),
            self._vectors or MemoryVectors(self._clock),
        )

    def renew(self) -> None:
        """Called every `RENEW_S`."""
        if self._gateway.caching is not None:
            self._gateway.caching.renew_leads()

    async def stop(self) -> None:
        if self._redis is not None:
            await self._redis.stop()
        if self._vectors is not None:
            await asyncio.to_thread(self._vectors.stop)


def _can_keep_vectors() -> bool:
    try:
        return ensure_table()
    except (DatabaseError, InterfaceError) as error:
        logger.warning(
            "Whether the database can keep question vectors is not known, so each worker keeps its own: %s", error
        )
        return False
    finally:
        connection.close()

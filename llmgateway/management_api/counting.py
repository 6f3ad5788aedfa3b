"""How often something happened in the present minute: over all processes where there is Redis, else in this one."""

from __future__ import annotations

import logging
import sys
import time

from django.core.cache import caches

SHARED, OWN = "counting", "default"
"""Caches of the settings. While the shared one is away, each process counts for itself."""

MINUTE_S = 60

logger = logging.getLogger(__name__)


def count_this_minute(name: str) -> tuple[int, int]:
    """How often `name` was counted in this minute, this time included, and after how many seconds the next begins."""
    minute, second = divmod(int(time.time()), MINUTE_S)
    key = f"management-api:{name}:{minute}"
    try:
        count = _counted(SHARED, key)
    except _away() as error:
        logger.warning("counting in this process alone, for Redis is away: %s", type(error).__name__)
        count = _counted(OWN, key)
    return count, MINUTE_S - second


def _away() -> tuple[type[BaseException], ...]:
    """What says that Redis is away. Its library is not loaded by who does without it."""
    loaded = sys.modules.get("redis.exceptions")
    return (OSError,) if loaded is None else (OSError, loaded.RedisError)


def _counted(cache_name: str, key: str) -> int:
    cache = caches[cache_name]
    cache.add(key, 0, timeout=2 * MINUTE_S)
    try:
        return int(cache.incr(key))
    except ValueError:  # Somebody emptied the cache in between.
        return 1

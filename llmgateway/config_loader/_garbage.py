"""What a hundred thousand keys must not do to the process: stop it for the garbage collector, or leave their memory behind."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 10_000
"""Keys from which on a full collection would be felt (some 3 ms for each 10,000)."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Nothing that is built inside is garbage; collections in between would only walk over it again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def keep(keys: int) -> None:
    """Spare a large snapshot all collections to come: it has no cycles, so counting references frees it.

    What else is alive goes along: cycles that are garbage at this moment are not freed any more. A full load is rare.
    """
    if keys >= MANY:
        gc.freeze()


def give_back(keys: int) -> None:
    """Return to the system what a large snapshot that is gone has left free: the allocator keeps it otherwise.

    It takes a millisecond or two. Where the C library has no such call, nothing is done.
    """
    if keys >= MANY and _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

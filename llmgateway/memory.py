"""The memory of a server's process: one heap for all threads, given back after a peak, few searches for cycles. No Django here.

What is said to the C library is glibc's; with another one nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_M_ARENA_MAX = -8
"""From `malloc.h`."""
EVERY_S = 5.0
WORTH_BYTES = 2 * 2**20
"""Growth from which on the heap is looked through: one to two milliseconds, in which no thread can allocate."""
LOOKS = 3
"""So many after the last, it is looked through in any case: what a peak had in use then may be free now."""
JOIN_S = 5.0
GC_THRESHOLDS = (50_000, 20, 100)
"""Requests make few cycles; looking for them at the default pace costs more than it frees."""
_STATE = Path("/proc/self/statm")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def use_one_heap() -> None:
    """Threads that are started from now on share the heap of the first. To be called while there is no other.

    Each would begin a heap of its own, of which what it has freed stays. They hold the interpreter's lock for most of
    what they allocate, so they need not wait for each other. `MALLOC_ARENA_MAX` in the environment wins.
    """
    choose = getattr(_LIBC, "mallopt", None)
    if choose is not None and "MALLOC_ARENA_MAX" not in os.environ:
        choose(_M_ARENA_MAX, 1)


def expect_few_cycles() -> None:
    """What has been loaded stays, and need not be looked at when cycles are searched for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def forget_modules(package: str) -> None:
    """Let go of the modules of `package`: they have done their work, and are imported again by who needs them again."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        module = sys.modules.pop(name)
        parent, _, short = name.rpartition(".")
        if parent in sys.modules and getattr(sys.modules[parent], short, None) is module:
            delattr(sys.modules[parent], short)


class Returning:
    """The thread that gives free pages of the heap back to the system when the process has grown.

    Without it memory stays what it was at the highest peak, for something small is always left at the heap's end.
    """

    def __init__(
        self,
        *,
        every_s: float = EVERY_S,
        resident: Callable[[], int] | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> None:
        self._every_s = every_s
        self._resident = resident or resident_bytes
        self._give_back = give_back or _give_back
        self._least = 0
        """Resident bytes that are known to be needed."""
        self._looks = 0
        """Since something was given back."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-return", daemon=True)

    def start(self) -> None:
        if _STATE.exists() and hasattr(_LIBC, "malloc_trim"):
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        self._least = self._resident()
        while not self._stopping.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Give back what is free if there may be enough of it."""
        resident = self._resident()
        self._looks += 1
        if resident >= self._least + WORTH_BYTES or self._looks == LOOKS:
            self._give_back()
            self._least = self._resident()
            self._looks = 0
        else:
            self._least = min(self._least, resident)


def resident_bytes() -> int:
    """Of this process; Linux."""
    return int(_STATE.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Other threads run meanwhile."""
    assert _LIBC is not None
    _LIBC.malloc_trim(0)

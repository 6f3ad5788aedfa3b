"""Ties a child process to its parent, so that not even `kill -9` of the parent leaves one behind. Linux; elsewhere nothing.

Standard library only: it runs between fork and exec, and in every child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for `number` when the process `parent` ends, however it ends. Call it in its child."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        # It ended before we could ask.
        os._exit(1)


def is_running(pid: int) -> bool:
    """Whether a process with this id exists; one of another user counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

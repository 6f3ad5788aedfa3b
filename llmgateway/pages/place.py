"""Where the process that makes pages is found, and who may start it: a socket and a lock in the data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Place:
    """The folder `run` of a data folder. Several servers may share it."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "run"
        self.socket = self.folder / "pages"
        """Not `.sock`: those belong to workers (`llmgateway.siblings`)."""
        self.lock = self.folder / "pages.lock"

    def take_lock(self) -> int | None:
        """A descriptor that keeps everybody else from starting the process for as long as any process has it open.

        None: somebody has it. Raises OSError where the folder cannot be used.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

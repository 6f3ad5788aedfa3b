"""The process that makes pages: `python -m llmgateway.pages SERVER GRACE_S`, started by `llmgateway.pages.keeper` alone."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from llmgateway.processes import die_with_parent

NICENESS = 10
"""Apps' requests come first where the processors do not suffice for both."""

FIRST_TO_GO = "500"
"""Where memory is short, the kernel is to end this process before the server: nobody loses anything by it. Linux."""


def main(server: int, grace_s: float) -> None:
    """Serve pages until the server `server` ends, or nobody looks any more."""
    die_with_parent(server)
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    # Only now: this takes most of a second, in which the server may end.
    from llmgateway.pages.serving import serve

    serve(grace_s)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

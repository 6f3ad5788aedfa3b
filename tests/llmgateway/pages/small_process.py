"""A process as `llmgateway.pages`, whose pages are its own id. `FOLDER SERVER GRACE_S`; it starts quickly, for it has no Django."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from llmgateway.pages.place import Place
from llmgateway.pages.server import PagesServer
from llmgateway.processes import die_with_parent


async def own_id(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def main(folder: Path, grace_s: float) -> None:
    server = PagesServer(own_id, Place(folder), grace_s=grace_s)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.end)
    await server.run()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[3])))

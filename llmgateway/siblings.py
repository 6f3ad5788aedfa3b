"""The other workers of this gateway, on this host: each answers on a socket of its own in the data folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

ANSWER_S = 1.0
"""How long a sibling may take; one that is stopping or stuck must not hold up a scrape."""
LARGEST = 16 * 2**20
LONGEST_PATH = 100
"""Bytes that a socket's path may have on every system."""


class Siblings:
    """Lets workers ask one another for a page of bytes, such as their metrics."""

    def __init__(self, folder: Path, page: Callable[[], Awaitable[bytes]]) -> None:
        self._folder = folder
        self._page = page
        self._own = folder / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own.unlink(missing_ok=True)
        with short_path(self._own) as path:
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._own.unlink(missing_ok=True)

    async def pages(self) -> list[bytes]:
        """Those of all other workers that answer in time."""
        others = [path for path in self._folder.glob("*.sock") if path != self._own]
        answers = await asyncio.gather(*[self._ask(path) for path in others])
        return [answer for answer in answers if answer]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await self._page())
            await writer.drain()
        finally:
            writer.close()

    async def _ask(self, path: Path) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                with short_path(path) as short:
                    reader, writer = await asyncio.open_unix_connection(short, limit=LARGEST)
                try:
                    return await reader.read(-1)
                finally:
                    writer.close()
        except ConnectionRefusedError:
            _forget(path)  # Its worker was killed.
        except (OSError, TimeoutError) as error:
            logger.warning("the worker at %s does not tell its metrics: %s", path.name, error or "it takes too long")
        return b""


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """`path` as short as sockets want it: through a descriptor of its folder where it is too long."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)

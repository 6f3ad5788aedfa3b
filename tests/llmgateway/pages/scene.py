"""A server's relay and the process behind it, in one event loop, with applications that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llmgateway.pages.keeper import Keeper
from llmgateway.pages.place import Place
from llmgateway.pages.relay import Relay
from llmgateway.pages.server import PagesServer

Application = Callable[[Any, Any, Any], Any]


def scope(method: str = "GET", path: str = "/login/", **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"gateway.test"), (b"accept", b"text/html")]
    return {
        "type": "http", "method": method, "path": path, "headers": headers, "client": ("10.1.2.3", 4567),
        "scheme": "https", "query_string": b"a=1", **more,
    }  # fmt: skip


class Client:
    """Says `messages` and then nothing more, until it leaves; notes what it is told."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._says = list(messages) or [{"type": "http.request", "body": b"", "more_body": False}]
        self._gone = asyncio.Event()
        self.goodbye: dict[str, Any] = {"type": "http.disconnect"}
        self.heard: list[MutableMapping[str, Any]] = []
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self._says:
            return self._says.pop(0)
        await self._gone.wait()
        return self.goodbye

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.heard.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def status(self) -> int:
        return int(self.heard[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.heard)


async def says_here(scope: Any, receive: Any, send: Any) -> None:
    """The application of the server itself: what it was sent, and that it was here."""
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "headers": [(b"from", b"here")]})
        return
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here " + body})


@asynccontextmanager
async def connected(folder: Path, application: Application, **options: Any) -> AsyncIterator[tuple[Relay, PagesServer]]:
    """A relay that reaches a process, which is this one."""
    place = Place(folder)
    place.folder.mkdir(parents=True)
    server = PagesServer(application, place, grace_s=options.pop("grace_s", 1), **options)
    ready = asyncio.Event()
    serving = asyncio.create_task(server.run(on_ready=ready.set))
    await ready.wait()
    relay = Relay(says_here)
    relay.keeper = Keeper(place, grace_s=1, command=("false",))
    try:
        yield relay, server
    finally:
        server.end()
        await asyncio.wait_for(serving, 5)
        await relay.keeper.stop()


async def until(condition: Callable[[], Any]) -> None:
    """Give the others their turn until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)

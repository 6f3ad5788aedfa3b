"""A gateway that runs in this process, as Django's pages find it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from llmgateway import wiring
from tests.fakes import ScriptedUpstream
from tests.gateways import House, alias, deployment, snapshot


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def make() -> House:
        return House(ScriptedUpstream(), snapshot(alias("gpt", deployment())))

    try:
        house = asyncio.run_coroutine_threadsafe(make(), loop).result(10)
        running = SimpleNamespace(gateway=house.gateway, conf=house.conf, loop=loop)
        monkeypatch.setattr(wiring, "current", lambda: running)
        yield house
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

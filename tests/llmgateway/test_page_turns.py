"""Pages are made one after the other, and none keeps the others from being made for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmgateway.page_turns import PageTurns


class Pages:
    """An application whose pages are made when they are told to be; it knows which are being made."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.made: dict[str, asyncio.Event] = {}
        self.read: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"]
        self.begun.append(name)
        await self.event(self.made, name).wait()
        if name == "/broken":
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": 200})
        await self.event(self.read, name).wait()

    @staticmethod
    def event(events: dict[str, asyncio.Event], name: str) -> asyncio.Event:
        return events.setdefault(name, asyncio.Event())


async def nothing(*_: Any) -> Any:
    """Neither comes nor goes anything."""


def asked(turns: PageTurns, name: str) -> asyncio.Task[None]:
    return asyncio.create_task(turns({"path": name}, nothing, nothing))


async def test_a_page_is_made_when_the_one_before_is() -> None:
    pages = Pages()
    turns = PageTurns(pages, patience_s=5)
    tasks = [asked(turns, name) for name in ("/a", "/b")]
    await asyncio.sleep(0.01)
    assert pages.begun == ["/a"]

    pages.event(pages.made, "/a").set()
    await asyncio.sleep(0.01)

    assert pages.begun == ["/a", "/b"], "the first is made, though its client has not read it"
    for name in ("/a", "/b"):
        pages.event(pages.made, name).set()
        pages.event(pages.read, name).set()
    await asyncio.gather(*tasks)


async def test_nobody_waits_for_long_behind_a_slow_page() -> None:
    pages = Pages()
    turns = PageTurns(pages, patience_s=0.02)
    slow, other = asked(turns, "/slow"), asked(turns, "/other")
    pages.event(pages.made, "/other").set()
    pages.event(pages.read, "/other").set()

    await asyncio.wait_for(other, 5)

    assert not slow.done()
    slow.cancel()
    last = asked(turns, "/last")
    await asyncio.sleep(0.01)
    assert pages.begun[-1] == "/last", "what went without a turn gave none back, and the slow one did"
    last.cancel()


@pytest.mark.parametrize("ends", ["/broken", "/left"])
async def test_a_page_that_fails_or_is_left_gives_its_turn_back(ends: str) -> None:
    pages = Pages()
    turns = PageTurns(pages, patience_s=5)
    first, second = asked(turns, ends), asked(turns, "/b")
    await asyncio.sleep(0.01)
    if ends == "/left":
        first.cancel()
    pages.event(pages.made, ends).set()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.sleep(0.01)

    assert pages.begun == [ends, "/b"]
    second.cancel()


async def test_who_leaves_the_line_takes_no_turn_along() -> None:
    pages = Pages()
    turns = PageTurns(pages, patience_s=5)
    first, second, third = (asked(turns, name) for name in ("/a", "/b", "/c"))
    await asyncio.sleep(0.01)
    second.cancel()
    first.cancel()
    await asyncio.sleep(0.01)

    assert pages.begun == ["/a", "/c"]
    third.cancel()

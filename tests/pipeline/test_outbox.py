"""Writes of one turn of the event loop, sent together."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llmgateway.pipeline.outbox import MOST, Departing, Outbox


class Pipe:
    """Writes down what is done to it, in the list that all pipes of a test share."""

    def __init__(self, done: list[tuple[str, bytes]], name: str = "a") -> None:
        self.done = done
        self.name = name
        self.is_shut = False
        self.get_extra_info = self.pause_reading = self.resume_reading = lambda *_: None

    def write(self, data: bytes) -> None:
        self.done.append((self.name, data))

    def is_closing(self) -> bool:
        return self.is_shut

    def close(self) -> None:
        self.is_shut = True
        self.done.append((self.name, b"closed"))


def pipes(done: list[tuple[str, bytes]]) -> tuple[Any, Any]:
    return cast("Any", Pipe(done)), cast("Any", Pipe(done, "b"))


async def test_what_leaves_in_one_turn_is_sent_at_its_end_in_order() -> None:
    done: list[tuple[str, bytes]] = []
    a, b = pipes(done)
    outbox = Outbox(asyncio.get_running_loop())

    outbox.put(a, b"1")
    outbox.put(b, b"2")
    outbox.put(a, b"3")
    assert not done
    await asyncio.sleep(0)

    assert done == [("a", b"1"), ("b", b"2"), ("a", b"3")]


async def test_no_more_than_so_many_wait_for_each_other() -> None:
    done: list[tuple[str, bytes]] = []
    a, _ = pipes(done)
    outbox = Outbox(asyncio.get_running_loop())

    for number in range(MOST + 1):
        outbox.put(a, b"%d" % number)
    assert len(done) == MOST
    await asyncio.sleep(0)

    assert [data for _, data in done] == [b"%d" % number for number in range(MOST + 1)]


async def test_what_is_meant_for_a_closed_connection_is_dropped_alone() -> None:
    done: list[tuple[str, bytes]] = []
    a, b = pipes(done)
    outbox = Outbox(asyncio.get_running_loop())

    outbox.put(a, b"1")
    outbox.put(b, b"2")
    a.is_shut = True
    await asyncio.sleep(0)

    assert done == [("b", b"2")]


async def test_closing_comes_after_what_was_written() -> None:
    done: list[tuple[str, bytes]] = []
    departing = Departing(pipes(done)[0])

    departing.write(b"answer")
    departing.close()
    await asyncio.sleep(0)

    assert done == [("a", b"answer"), ("a", b"closed")]


async def test_each_event_loop_has_one() -> None:
    mine = Outbox.of(asyncio.get_running_loop())

    async def elsewhere() -> bool:
        return Outbox.of(asyncio.get_running_loop()) is mine

    assert Outbox.of(asyncio.get_running_loop()) is mine
    assert not await asyncio.to_thread(asyncio.run, elsewhere())

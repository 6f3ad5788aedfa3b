"""Workers that ask one another."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from llmgateway.siblings import Siblings


def sockets(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.sock")]


async def says(what: bytes) -> bytes:
    return what


class Worker(Siblings):
    """A worker of this process, under another number."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, lambda: says(b"page of %d" % number))
        self._own = folder / f"{number}.sock"


@pytest.mark.parametrize("name", ["run", "a" * 120])
async def test_workers_tell_one_another(tmp_path: Path, name: str) -> None:
    one, two, three = (Worker(tmp_path / name, number) for number in (1, 2, 3))
    for each in (one, two, three):
        await each.start()

    assert sorted(await two.pages()) == [b"page of 1", b"page of 3"]
    await one.stop()
    assert await two.pages() == [b"page of 3"]
    await two.stop()
    await three.stop()


async def test_a_killed_worker_is_forgotten(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "7.sock"))
    alive = Worker(tmp_path, 1)
    await alive.start()

    assert await alive.pages() == []
    assert sockets(tmp_path) == ["1.sock"]
    await alive.stop()


async def test_a_stuck_worker_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.siblings.ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "7.sock"))
        stuck.listen()
        alive = Worker(tmp_path, 1)
        await alive.start()

        assert await asyncio.wait_for(alive.pages(), 2) == []
        await alive.stop()

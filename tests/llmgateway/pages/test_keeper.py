"""The process that makes pages is started when somebody looks, by one server, and again when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmgateway.pages import keeper as keeper_module
from llmgateway.pages.keeper import Keeper
from llmgateway.pages.place import Place
from tests.e2e.launched import is_alive
from tests.llmgateway.pages.scene import until

PROJECT = Path(__file__).resolve().parents[3]


def small(folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.llmgateway.pages.small_process", str(folder))


@asynccontextmanager
async def keeping(folder: Path, *command: str) -> AsyncIterator[Keeper]:
    keeper = Keeper(Place(folder), grace_s=1, command=command or small(folder))
    try:
        yield keeper
    finally:
        await keeper.stop()


async def reached(keeper: Keeper) -> bool:
    wire = await keeper.reach()
    if wire is None:
        return False
    wire[1].close()
    return True


async def until_reached(keeper: Keeper) -> int:
    """The id of the process that is there in the end."""
    async with asyncio.timeout(20):
        while not await reached(keeper):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)
    return keeper.pid


async def test_the_first_who_looks_starts_it_and_a_stop_ends_it(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        assert (keeper.state, (tmp_path / "run").exists()) == ("idle", False)

        assert not await reached(keeper)
        await until(lambda: keeper.state == "starting")
        await until(lambda: keeper.state == "process")
        pid = keeper.pid

        assert Place(tmp_path).take_lock() is None, "nobody may start another one"
        assert is_alive(pid), "it is known to answer though nobody has asked for another page"
        assert pid != os.getpid()
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "run/pages").stat().st_mode & 0o777 == 0o600
    assert not is_alive(pid)
    assert not await reached(keeper), "nothing is started while the server stops"
    assert not (tmp_path / "run/pages").exists()


async def test_who_has_time_waits_for_its_start(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        wire = await keeper.reach_patiently()
        assert wire is not None
        wire[1].close()
    assert await keeper.reach_patiently() is None, "not when the server stops"


async def test_two_servers_share_one_and_the_other_starts_the_next(tmp_path: Path) -> None:
    async with keeping(tmp_path) as second:
        async with keeping(tmp_path) as first:
            pid = await until_reached(first)
            assert await until_reached(second) == pid

        assert not is_alive(pid), "it ends with who started it"
        assert await until_reached(second) != pid


async def test_the_process_of_another_version_is_left_to_its_server(tmp_path: Path) -> None:
    async with keeping(tmp_path) as newer, keeping(tmp_path) as older:
        await until_reached(older)
        newer._version = "1000.0.0"

        assert not await reached(newer)
        assert await reached(older)


@pytest.mark.parametrize(
    "said", [b"\0\0\0\x01\xc1", b"\0\0\0\x01\x80", b"\0\0\0\x01\x01"], ids=["noise", "nothing", "a-number"]
)
async def test_who_greets_in_another_way_is_no_way_to_pages_and_makes_way(tmp_path: Path, said: bytes) -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with keeping(tmp_path) as keeper:
        (tmp_path / "run").mkdir()
        async with await asyncio.start_unix_server(greet, tmp_path / "run" / "pages"):
            assert not await reached(keeper)
            assert await until_reached(keeper)


async def test_many_who_look_at_once_start_one(tmp_path: Path) -> None:
    async with keeping(tmp_path) as first, keeping(tmp_path) as second:
        await asyncio.gather(*[reached(keeper) for keeper in (first, second) for _ in range(50)])
        pids = {await until_reached(keeper) for keeper in (first, second)}
        arrived = await asyncio.gather(*[reached(keeper) for keeper in (first, second) for _ in range(100)])

    assert len(pids) == 1
    assert all(arrived)


async def test_another_is_started_when_it_was_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with keeping(tmp_path) as keeper:
        pid = await until_reached(keeper)
        keeper_module.QUICK_S, before = 0.0, keeper_module.QUICK_S
        try:
            os.kill(pid, signal.SIGKILL)
            await until(lambda: keeper.state == "idle")
        finally:
            keeper_module.QUICK_S = before

        assert (tmp_path / "run/pages").exists(), "a dead socket lies there"
        assert await until_reached(keeper) != pid
    assert "was ended by SIGKILL" in caplog.text


async def test_one_that_fails_is_left_for_longer_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LONGEST_DELAY_S", 0.05)
    async with keeping(tmp_path, sys.executable, "-S", "-c", "raise SystemExit(3)") as keeper:
        async with asyncio.timeout(20):
            while "3 times in a row" not in caplog.text:
                assert not await reached(keeper)
                await asyncio.sleep(0.02)
        assert keeper.state == "here"

        failures = keeper._failures
        monkeypatch.setattr(keeper_module, "LONGEST_DELAY_S", 60)
        await asyncio.sleep(0.06)
        await reached(keeper)
        await until(lambda: keeper._failures > failures)
        await asyncio.sleep(0.1)
        await reached(keeper)
        assert keeper._running is None, "it is not tried again at once"
    assert "`./gateway doctor`" in caplog.text
    assert "ended with status 3" in caplog.text


async def test_a_folder_that_cannot_be_used_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LONGEST_DELAY_S", 0.01)
    monkeypatch.setattr(keeper_module, "LOOK_EVERY_S", 0.01)
    (tmp_path / "run").write_text("a file where a folder belongs")
    async with keeping(tmp_path) as keeper:
        assert await keeper.reach_patiently() is None
        assert keeper.state == "here"

    assert "cannot be started" in caplog.text


async def test_one_that_is_stuck_holds_nobody_up_for_long_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LEFT_ALONE_S", 0.02)
    async with keeping(tmp_path) as keeper:
        pid = await until_reached(keeper)
        monkeypatch.setattr(keeper_module, "GREETING_S", 0.02)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert not any(await asyncio.gather(*[reached(keeper) for _ in range(20)]))
            assert is_alive(pid), "many who wait at once are one time"
            async with asyncio.timeout(10):
                while is_alive(pid):
                    await reached(keeper)
                    await asyncio.sleep(0.01)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        monkeypatch.setattr(keeper_module, "GREETING_S", 5)

    assert "does not answer; killing it" in caplog.text


async def test_the_time_of_one_that_does_not_end_runs_from_when_it_was_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "END_S", 0.0)
    keeper = Keeper(Place(tmp_path), grace_s=0.2, command=small(tmp_path))
    pid = await until_reached(keeper)
    os.kill(pid, signal.SIGSTOP)

    keeper.begin_end()
    await asyncio.sleep(0.2)  # The server's own requests are given that long.
    loop = asyncio.get_running_loop()
    began = loop.time()
    await keeper.stop()

    assert loop.time() - began < 0.15
    assert not is_alive(pid)

"""The server's hold on the process that makes pages: starts it when somebody looks, finds it, and ends it. No Django here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from typing import Literal

import msgspec

from llmgateway.launch import child_environment
from llmgateway.pages.frames import read_frame
from llmgateway.pages.place import Place
from llmgateway.siblings import short_path
from llmgateway.version import version

logger = logging.getLogger(__name__)

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
State = Literal["process", "idle", "starting", "here"]

GREETING_S = 2.0
"""How long the process may take to say that it is there. It does so before it knows what is asked of it."""
LOOK_EVERY_S = 0.25
"""While it starts."""
PATIENCE_S = 10.0
LEFT_ALONE_S = 5.0
"""For so long nobody waits for a process that did not say so."""
STUCK_AFTER = 4
"""A process that so often in a row did not say so is killed, so that another one can be started."""
QUICK_S = 10.0
"""A process that lived shorter than this failed quickly."""
TELL_AFTER = 3
"""Quick failures in a row from which on operators are told."""
LONGEST_DELAY_S = 60.0
END_S = 5.0
"""On top of what its requests may take, the process has this to end before it is killed."""

COMMAND = (sys.executable, "-P", "-m", "llmgateway.pages")


class Keeper:
    """One per server. Used from the event loop of the main thread: the kernel ends the process with the thread that started it."""

    def __init__(self, place: Place, *, grace_s: float, command: tuple[str, ...] = COMMAND) -> None:
        self._place = place
        self._grace_s = grace_s
        self._command = command
        self._version = version()
        self._process: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[None] | None = None
        """From the start of our own process to its end."""
        self._failures = 0
        self._not_before = 0.0
        """When the next one may be started."""
        self._alone_until = 0.0
        self._unheard = 0
        self._is_stopping = False
        self._patient_until = 0.0
        """By when our process must have ended, once it is to."""
        self.pid = 0
        """Of the process that was there when it was last looked for, whichever server started it."""

    async def reach(self) -> Wire | None:
        """The way to the process for one request. None: it is not there, and is started if it may be."""
        if self._is_stopping or asyncio.get_running_loop().time() < self._alone_until:
            return None
        try:
            async with asyncio.timeout(GREETING_S):
                with short_path(self._place.socket) as path:
                    reader, writer = await asyncio.open_unix_connection(path)
                greeting = await self._greeting(reader, writer)
        except TimeoutError:
            self._leave_alone()
            return None
        except OSError:
            greeting = None
        if greeting is None:
            self.pid = 0
            self._start_soon()
            return None
        self.pid, self._unheard = greeting, 0
        return reader, writer

    async def reach_patiently(self) -> Wire | None:
        """The same for what would stay for hours where it begins: a process that starts is waited for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while (wire := await self.reach()) is None:
            if self._is_stopping or self._failures >= TELL_AFTER or loop.time() > until:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return wire

    @property
    def state(self) -> State:
        """What `/health` tells: who makes pages, or would."""
        if self.pid:
            return "process"
        if self._process is not None:
            return "starting"
        return "here" if self._failures else "idle"

    def begin_end(self) -> None:
        """Our process takes no more requests, and ends when those that it has are answered. From here on its time runs."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._patient_until = time.monotonic() + self._grace_s + END_S
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def stop(self) -> None:
        """Wait for that end."""
        self.begin_end()
        if self._running is None:
            return
        done, _ = await asyncio.wait([self._running], timeout=max(self._patient_until - time.monotonic(), 0.0))
        if not done:
            self._kill()
            await self._running

    async def _greeting(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        """The process's id. None: it is ending, or belongs to a server of another version."""
        try:
            greeting = await read_frame(reader)
        except msgspec.MsgspecError:
            greeting = None  # Somebody else has the socket.
        except BaseException:
            writer.close()
            raise
        if greeting is None or greeting.get("version") != self._version:
            writer.close()
            return None
        return int(greeting["pid"])

    def _leave_alone(self) -> None:
        """It is stuck, or the machine is: nobody is to wait for it now."""
        now = asyncio.get_running_loop().time()
        if now < self._alone_until:
            return  # Others waited beside this one.
        self._alone_until = now + LEFT_ALONE_S
        self._unheard += 1
        if self._unheard >= STUCK_AFTER and self._process is not None:
            logger.error("the process that makes pages (%s) does not answer; killing it", self._process.pid)
            self._unheard = 0
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _start_soon(self) -> None:
        if self._running is None and asyncio.get_running_loop().time() >= self._not_before:
            self._running = asyncio.create_task(self._run())
            self._running.add_done_callback(self._forget)

    def _forget(self, _: asyncio.Task[None]) -> None:
        self._running = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status = await self._run_process()
        except OSError as error:
            self._note_failure(f"cannot be started ({error})", f"mend {self._place.folder} and its permissions")
            return
        finally:
            self._process = None
        self.pid = 0
        if status is None or status == 0 or self._is_stopping:
            self._failures = 0
        elif loop.time() - began < QUICK_S:
            self._note_failure(_how(status), "the lines above say why, and `./gateway doctor` checks what it needs")
        else:
            self._failures = 0
            logger.warning("the process that makes pages %s; the next page starts another one", _how(status))

    async def _run_process(self) -> int | None:
        """Its exit status. None: another server has started one."""
        lock = self._place.take_lock()
        if lock is None:
            return None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, str(os.getpid()), str(self._grace_s),
                stdin=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                # The lock is the process's from here on: it ends with it, and no later.
                pass_fds=(lock,),
            )  # fmt: skip
        finally:
            os.close(lock)
        if self._is_stopping:
            self._process.terminate()
        looking = asyncio.create_task(self._look_until_it_answers())
        try:
            return await self._process.wait()
        finally:
            looking.cancel()

    async def _look_until_it_answers(self) -> None:
        """So that `/health` tells of it though nobody asks for another page."""
        while not self.pid:
            await asyncio.sleep(LOOK_EVERY_S)
            wire = await self.reach()
            if wire is not None:
                wire[1].close()

    def _note_failure(self, what: str, advice: str) -> None:
        self._failures += 1
        delay = min(2.0 ** (self._failures - 2), LONGEST_DELAY_S)
        self._not_before = asyncio.get_running_loop().time() + delay
        if self._failures == TELL_AFTER:
            logger.error(
                "the process that makes pages %s, %d times in a row: %s. Until it runs, pages are made in the server, which "
                "slows apps' requests while somebody looks",
                what, self._failures, advice,
            )  # fmt: skip
        else:
            logger.warning("the process that makes pages %s; it is not tried again for %g s", what, delay)


def _how(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

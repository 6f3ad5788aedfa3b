"""Child processes of a run: started on chosen CPUs, read through /proc, and always stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
STOP_TIMEOUT_S = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_pause = threading.Event().wait


class BenchError(Exception):
    """Something that ends the run; the message says what to do."""


ALL_CPUS = frozenset(os.sched_getaffinity(0))


def split_cpus(count: int = 1) -> tuple[frozenset[int], frozenset[int]]:
    """The last CPUs for the target and the others for the load with its upstream; all for both where there are too few."""
    target = frozenset(sorted(ALL_CPUS)[-count:])
    return (target, ALL_CPUS - target) if len(ALL_CPUS) > count else (ALL_CPUS, ALL_CPUS)


def pin(pid: int, cpus: frozenset[int]) -> None:
    """Let all threads of a process, and those they will start, run on `cpus` alone. One that has ended needs no place."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cpus)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """One process. Its output goes to a file, so that a slow reader never holds it up."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
        talks: bool = False,
    ) -> None:
        self.command = list(command)
        self._output = output.open("wb") if output else tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C reaches the run alone, which then stops its children in order.
        )
        self._output_name = output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, line: bytes) -> bytes:
        """Write a line to its standard input and wait for the line it answers with."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return self.read_line()

    def read_line(self) -> bytes:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise BenchError(f"{self._command} ended early:\n{self.last_output()}")
        return answer

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout_s: float = 30) -> None:
        """Poll `ready`; gives up, and stops the process, when it ended or the time is over."""
        try:
            self._poll(ready, what, timeout_s)
        except BaseException:
            # Whoever started it may not have it in hand yet, and so could not stop it.
            self.stop()
            raise

    def _poll(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                raise BenchError(f"{self._command} ended with code {self.process.returncode}:\n{self.last_output()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self._command}: {what} not after {timeout_s:.0f} s:\n{self.last_output()}")
            _pause(0.02)

    def last_output(self) -> str:
        if self._output_name is not None:
            text = self._output_name.read_bytes()
        else:
            self._output.seek(0)
            text = self._output.read()
        return text.decode(errors="replace")[-3000:].strip()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._output):
            if stream is not None:
                stream.close()

    @property
    def _command(self) -> str:
        return shlex.join(self.command)


def accepts(port: int) -> bool:
    """Whether something listens on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def reaped_cpu_seconds(pid: int) -> float:
    """The same of its children that have ended."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / _TICKS_PER_S


def rss_mb(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, at any depth."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended while we looked.
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

"""Starts `./gateway` as a person would, on a free port and a data folder of its own, and looks after its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from llmgateway.conf import PROJECT_ROOT
from llmgateway.demo.state import load_or_create
from tests.prepared import with_tables

START_S = 60.0
STOP_S = 45.0


def command(*arguments: str) -> list[str]:
    """What `./gateway` becomes once its environment is there."""
    return [sys.executable, "-P", "-m", "llmgateway.cli", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "DJANGO_SETTINGS_MODULE": "llmgateway.settings", **more}


def gateway(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, env=environment(**more), timeout=90
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.05)  # noqa: TID251  # the processes under test are others


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(pid: int) -> list[int]:
    """Children and theirs, now."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def prepare(data_dir: Path, *, is_demo: bool) -> None:
    """A new data folder with its tables."""
    data_dir.mkdir(parents=True, mode=0o700)
    if is_demo:
        load_or_create(data_dir)  # A folder that has tables and no such mark is refused as somebody's data.
    with_tables(data_dir)


class LaunchedGateway:
    """A running `./gateway` or `./gateway demo`. Use it as a context; it is stopped at the end."""

    FROM_NOTHING = False

    def __init__(self, data_dir: Path, *arguments: str, **more: str) -> None:
        if not (self.FROM_NOTHING or data_dir.exists() or "DATABASE_URL" in more):
            prepare(data_dir, is_demo="demo" in arguments)
        self.data_dir = data_dir
        self.port = free_port()
        self.output_file = data_dir.with_suffix(".out")
        self._arguments = [*arguments, "--port", str(self.port), "--data", str(data_dir)]
        self._more = more
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self.output_file.open("ab") as out:
            self.process = subprocess.Popen(
                command(*self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(**self._more),
            )
        try:
            self.wait_until_live()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def wait_until_live(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, f"the gateway ended:\n{self.output}"
            return self.status("/health/live") == 200

        wait_until(answers, within_s=START_S, what="the first answer")

    def status(self, path: str) -> int:
        """The HTTP status of a page; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def chat(self, secret: str, model: str) -> tuple[int, Any]:
        """Status and body of one chat request."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]}).encode()
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return int(response.status), json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def wait_for_worker(self) -> None:
        """Until the background worker and its scheduler run too."""

        def beats() -> bool:
            return (self.data_dir / "worker-heartbeat").exists() and len(descendants(self.process.pid)) >= 3

        wait_until(beats, within_s=START_S, what="the background worker's start")

    def server_pid(self) -> int:
        for pid in descendants(self.process.pid):
            if b"--ready-fd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError("there is no server process")

    @staticmethod
    def cpu_s(pid: int) -> float:
        """Processor time that a process has used."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


class FirstLaunch(LaunchedGateway):
    """It finds nothing, and makes its tables itself."""

    FROM_NOTHING = True

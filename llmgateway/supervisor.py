"""The light parent of the processes that make a gateway: starts them, restarts what crashes, and leaves nothing behind.

No Django here. The parent holds the lock on the data folder and the listening socket, so that a restarted server
finds the connections that came meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from llmgateway.processes import die_with_parent, is_running

EXIT_CONFIGURATION = 78
"""A child's exit status (EX_CONFIG) for what no restart mends. It has said what to do."""

MAX_QUICK_FAILURES = 5
QUICK_S = 10.0
"""A child that lived shorter than this failed quickly."""
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0


class StartError(Exception):
    """The gateway cannot start; the message is one line that says what to do."""


@dataclass(slots=True)
class Child:
    """A process to keep running."""

    name: str
    command: Sequence[str]
    first: bool = False
    """Whether it is started at once; the others wait until the server answers, and has migrated the database."""
    essential: bool = False
    """Whether the gateway ends when this one cannot be kept running."""
    once: bool = False
    """Whether it may end by itself."""
    stop_within_s: float = 10.0
    """How long it may take to stop before it is killed."""
    on_our_death: signal.Signals = signal.SIGTERM
    """What the kernel sends it when this process is killed."""
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    quick_failures: int = 0
    start_at: float | None = None
    """When to start it again; None: not waiting to be."""


@dataclass(slots=True)
class Supervisor:
    """Runs `children` until a stop signal or until an essential one cannot be kept running.

    `ready_fd` is the reading end of a pipe into which the server writes when it answers. Runs in the main thread:
    signals arrive there, and the kernel's parent-death signal is tied to the thread that forked.
    """

    children: list[Child]
    ready_fd: int
    listener: socket.socket | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    is_ready: bool = False
    stop_signals: int = 0
    exit_code: int | None = None

    def run(self) -> int:
        """The exit status for the whole gateway: 0 after a stop signal."""
        with self._signals() as wakeup:
            self._start_all(first=True)
            while self.exit_code is None and not self.stop_signals:
                self._wait(wakeup)
                self._check_ready()
                self._reap()
                self._restart_due()
            self._stop_all(wakeup)
        return self.exit_code or 0

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Turns signals into bytes on a socket, so that one `select` waits for everything."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_stop) for number in stops}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        old_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            reading.close()
            writing.close()

    def _on_stop(self, *_: object) -> None:
        self.stop_signals += 1

    def _wait(self, wakeup: socket.socket, *, at_most_s: float = 60.0) -> None:
        now = time.monotonic()
        due = [child.start_at - now for child in self.children if child.start_at is not None]
        watched: list[socket.socket | int] = [wakeup] if self.is_ready else [wakeup, self.ready_fd]
        readable, _, _ = select.select(watched, [], [], max(0.0, min([at_most_s, *due])))
        if wakeup in readable:
            with contextlib.suppress(BlockingIOError):
                wakeup.recv(4096)

    def _check_ready(self) -> None:
        if self.is_ready or not select.select([self.ready_fd], [], [], 0)[0]:
            return
        if os.read(self.ready_fd, 1):
            self.is_ready = True
            self._start_all(first=False)

    def _start_all(self, *, first: bool) -> None:
        for child in self.children:
            if child.first is first and child.process is None:
                self._start(child)

    def _start(self, child: Child) -> None:
        child.start_at = None
        child.started_at = time.monotonic()
        # A process group of its own: Ctrl-C reaches the parent alone, which then stops all in order.
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            pass_fds=child.pass_fds,
            process_group=0,
            preexec_fn=partial(die_with_parent, os.getpid(), child.on_our_death),  # noqa: PLW1509  # this process has one thread
        )

    def _reap(self) -> None:
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            status = child.process.returncode
            _kill_group(child.process)
            child.process = None
            self._on_end(child, status)

    def _on_end(self, child: Child, status: int) -> None:
        if child.once and status == 0:
            return
        if child.essential and (status == EXIT_CONFIGURATION or not self.is_ready):
            if status != EXIT_CONFIGURATION:
                say(f"the {child.name} {_how(status)} before it was ready; the lines above say why.")
            self.exit_code = 1
            return
        lived = time.monotonic() - child.started_at
        child.quick_failures = child.quick_failures + 1 if lived < QUICK_S else 1
        if child.quick_failures >= MAX_QUICK_FAILURES:
            self._give_up(child, status)
            return
        delay = min(FIRST_DELAY_S * 2 ** (child.quick_failures - 1), MAX_DELAY_S)
        say(f"the {child.name} {_how(status)}; starting it again in {delay:g} s.")
        child.start_at = time.monotonic() + delay

    def _give_up(self, child: Child, status: int) -> None:
        times = f"the {child.name} {_how(status)}, {MAX_QUICK_FAILURES} times in a row; the lines above say why"
        if child.essential:
            say(f"{times}. Stopping. `./gateway doctor` checks what it needs.")
            self.exit_code = 1
        else:
            say(f"{times}. Requests are served without it; mend it (`./gateway doctor`) and start the gateway again.")

    def _restart_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.start_at is not None and child.start_at <= now:
                self._start(child)

    def _stop_all(self, wakeup: socket.socket) -> None:
        """SIGTERM to all; SIGKILL to what outlives its time, or to all at a second signal."""
        if self.listener is not None:
            self.listener.close()
        began = time.monotonic()
        signals = self.stop_signals
        running = [child for child in self.children if child.process is not None]
        for child in running:
            child.start_at = None
            _signal(child.process, signal.SIGTERM)
        while running:
            for child in running:
                if self.stop_signals > signals or time.monotonic() - began > child.stop_within_s:
                    _kill_group(child.process)
            running = [child for child in running if child.process is not None and child.process.poll() is None]
            if running:
                self._wait(wakeup, at_most_s=0.2)
        for child in self.children:
            _kill_group(child.process)


def _signal(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(number)


def _kill_group(process: subprocess.Popen[bytes] | None) -> None:
    """Kill whatever is left of a child's process group; the scheduler of the background worker is its child."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def say(text: str) -> None:
    """One line for the person or log that reads our standard error."""
    print(f"gateway: {text}", file=sys.stderr, flush=True)


def open_listener(host: str, port: int) -> socket.socket:
    """A bound socket that children inherit.

    Raises:
        StartError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StartError(_why_not_bound(host, port, error)) from error
    return listener


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the program that has it, or choose another with --port."
    if isinstance(error, PermissionError):
        return f"port {port} needs more rights than this user has: choose one above 1023 with --port."
    return f"cannot listen on {host}:{port} ({error.strerror}): choose an address of this machine with --host."


def check_data_folder(folder: Path) -> None:
    """Make `folder` if it is not there, and prove that it can be written.

    Raises:
        StartError: it cannot.
    """
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"the data folder {folder} cannot be written ({error.strerror}): mend its permissions, or choose another "
            "with --data DIR."
        ) from error


def lock_data_folder(folder: Path, *, wait_s: float) -> int:
    """The descriptor of the lock on `folder`, held until every process that inherits it has ended.

    A server whose parent was killed finishes its requests first; that is waited for.

    Raises:
        StartError: another gateway runs on the folder.
    """
    descriptor = os.open(folder / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while not _try_lock(descriptor):
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        if not owner.isdigit() or is_running(int(owner)) or time.monotonic() > deadline:
            os.close(descriptor)
            raise StartError(
                f"another gateway (process {owner or 'unknown'}) runs on the data folder {folder}: stop it, or choose "
                "another folder with --data DIR."
            )
        select.select([], [], [], 0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

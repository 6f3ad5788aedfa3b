"""What the load generator is told, what it sends for it, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from bench import wire

_MIX = "JJBJJJPJJJBJJJBJJJBJ"
"""One turn of mixed traffic: fifteen of JSON, four bursts, one paced stream."""
_MIX_PACE_MS = 2
"""So short that full load stays full: a paced stream of the mix takes a tenth of a second."""
_HELD_APART_S = 0.002


class Job(msgspec.Struct, frozen=True):
    """What to send, and how much of it."""

    port: int
    path: str = "/v1/chat/completions"
    key: str = ""
    """Whose requests they are."""
    keys: tuple[str, ...] = ()
    """The same of many, in turns."""
    models: tuple[str, ...] = (wire.MODEL,)
    """What is asked for, in turns."""
    headers: dict[str, str] = {}
    stream: bool = False
    pace_ms: int = 0
    mix: bool = False
    """JSON, bursts and paced streams in turns. latencies are then of JSON, first tokens of streams."""
    hold: bool = False
    """One stream a connection, which stay open until the upstream is told to release them."""
    by_meaning: bool = False
    """Compare the words of answers, not their bytes: some targets write them anew."""
    rate: float = 0
    """Requests per second at fixed times, whether or not earlier ones are answered; 0: as fast as answers come."""
    connections: int = 1
    seconds: float = 1.0
    count: int = 1_000_000
    """At most this many measured requests."""

    @property
    def stagger_s(self) -> float:
        """Over how long streams begin. Those that are paced take one's length, so that they do not all begin at once for ever
        after; those that are held must not overflow accept queues.
        """
        if self.hold:
            return self.connections * _HELD_APART_S
        return wire.STREAM_CHUNKS * self.pace_ms / 1000

    def requests(self) -> list[Request]:
        """Everything that is sent, in turns."""
        keys = self.keys or (self.key,)
        if self.mix:
            bodies = {
                "J": wire.request_body(),
                "B": wire.request_body(stream=True),
                "P": wire.request_body(stream=True, pace_ms=_MIX_PACE_MS),
            }
            return [self._request(bodies[letter], keys[0], stream=letter != "J") for letter in _MIX]
        return [
            self._request(self._body(self.models[turn % len(self.models)]), keys[turn % len(keys)], stream=self.stream)
            for turn in range(max(len(keys), len(self.models)))
        ]

    def request(self) -> bytes:
        """What is sent first."""
        return self.requests()[0].data

    def _body(self, model: str) -> bytes:
        return wire.request_body(stream=self.stream, pace_ms=self.pace_ms, hold=self.hold, model=model)

    def _request(self, body: bytes, key: str, *, stream: bool) -> Request:
        lines = [
            f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Accept: application/json",
            "Content-Type: application/json", "User-Agent: bench", f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]  # fmt: skip
        if key:
            lines.append(f"Authorization: Bearer {key}")
        return Request("\r\n".join(lines).encode() + b"\r\n\r\n" + body, stream, *wire.expected_answer(stream=stream))


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of one request, and what must come back."""

    data: bytes
    stream: bool
    length: int
    checksum: int


class Outcome(msgspec.Struct, frozen=True):
    """What came of a job. Latencies are milliseconds of the measured requests; the warm-up is only counted."""

    sent: int
    """All requests, the warm-up included."""
    measured: int
    seconds: float
    requests_per_s: float
    latency_ms: dict[str, float]
    first_token_ms: dict[str, float]
    errors: int
    first_error: str
    cpu_share: float
    """Of one core, taken by the load generator; near 1 it was the bottleneck."""

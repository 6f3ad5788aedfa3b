"""What is seen from outside: one log line per request, and the figures behind `/metrics`.

Recording is dictionary arithmetic on the event loop; encoding and writing lines happens in a thread, in batches.
Names follow OpenTelemetry's GenAI conventions where they have one (semantic conventions 1.37).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import orjson

from llmgateway.pipeline.protocols import Record

logger = logging.getLogger(__name__)

LATENCY_BOUNDS_MS = (10.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 30000.0, 60000.0)
PHASE_BOUNDS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0)
DURATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PHASES = ("auth", "route", "admit", "ledger")


class Histogram:
    """Counts per bucket (not cumulative) and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        """Take another's counts in; both have the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


SeriesLabels = tuple[str, bool, str, int, str, str, str]
"""Path, stream, backend (deployment), status, operation, provider, model."""


class Series:
    """All figures of one combination of labels, so that a request costs one look-up."""

    __slots__ = ("cost_pico_usd", "duration_ms", "input_tokens", "output_tokens", "requests", "ttft_s")

    def __init__(self) -> None:
        self.requests = 0
        self.duration_ms = Histogram(LATENCY_BOUNDS_MS)
        self.ttft_s = Histogram(DURATION_BOUNDS_S)
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_pico_usd = 0


class Buckets(Protocol):
    """A histogram, as it is read."""

    @property
    def bounds(self) -> tuple[float, ...]: ...

    @property
    def counts(self) -> list[int]: ...

    @property
    def total(self) -> float: ...


class OpenConnections(Protocol):
    """What the server knows of its clients' connections."""

    @property
    def open(self) -> int: ...

    @property
    def resting(self) -> int:
        """Those without a request."""
        ...

    @property
    def ended(self) -> Mapping[str, int]:
        """Those that were ended, by reason."""
        ...

    @property
    def refused(self) -> Mapping[str, int]: ...


class SharedCounters(Protocol):
    """What a store outside this process knows of itself."""

    @property
    def mode(self) -> str:
        """`ok`, `rebuilding`, or the policy that decides while it is away."""
        ...

    @property
    def errors(self) -> int: ...

    @property
    def workers(self) -> int: ...

    @property
    def unsent(self) -> int: ...

    @property
    def round_trips(self) -> Buckets: ...


class KeptAnswers(Protocol):
    """What answers are kept in the memory of this process."""

    @property
    def byte_count(self) -> int: ...

    @property
    def entry_count(self) -> int: ...


@dataclass
class Figures:
    """Everything counted since the process started. Labels are bounded by configuration, never by callers."""

    series: dict[SeriesLabels, Series] = field(default_factory=lambda: defaultdict(Series))
    refusals: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By error code."""
    phases_s: dict[str, Histogram] = field(
        default_factory=lambda: {phase: Histogram(PHASE_BOUNDS_S) for phase in PHASES}
    )
    """Time in the gateway itself, by phase."""
    shadow_refusals: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """Requests that a limit in shadow mode would have refused, by its scope and name."""
    inconsistent_usage: int = 0
    unpriced: int = 0
    counter_drift_pico_usd: int = 0
    """How far the budgets' counters were from the ledger when they were last compared, together."""
    counter_drift_limits: int = 0
    """The same of limits over a window: requests and tokens."""
    counter_repairs: int = 0
    rollup_drift_rows: int = 0
    """Rows of sums that differed from the ledger, and were left so, when they were last compared."""
    cache_results: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Requests that kept answers concern: `hit`, `semantic`, `miss`, or `refresh`, which did not look."""
    cache_savings_pico_usd: int = 0
    """What hits would have cost."""
    kept_answers: KeptAnswers | None = None
    """None: none are kept here."""
    connections: OpenConnections | None = None
    """Of clients; None: the server does not count them."""
    retries: int = 0
    """Attempts that were made after a wait, because those before had failed."""
    fallbacks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Times that other aliases were asked, by cause."""
    hedges: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Second attempts: `begun`, `won`, `lost`, `refused` by a limit or budget."""
    hedge_cost_pico_usd: int = 0
    """What the attempts cost that lost."""
    mirrors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Copies of requests: `asked`, `dropped` because too many ran, `refused`, `failed`."""
    shared_counters: SharedCounters | None = None
    """None: the counters are this process's alone."""


class AccessLog:
    """Writes JSON lines to a file descriptor, in batches, from a thread of its own. A full pipe never blocks requests.

    At most `MAX_PENDING` lines wait; beyond that lines are dropped and counted, for memory is finite.
    """

    MAX_PENDING = 100_000

    def __init__(self, descriptor: int, *, interval_s: float = 0.1) -> None:
        self._descriptor = descriptor
        self._interval_s = interval_s
        self._pending: list[Record] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def write(self, line: Record) -> None:
        if len(self._pending) >= self.MAX_PENDING:
            self.dropped += 1
            return
        self._pending.append(line)

    def close(self) -> None:
        """Write what is pending and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines, self._pending = self._pending, []
        if not lines:
            return
        data = memoryview(_encoded(lines))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:  # Nobody reads any more, or the disk is full; the next lines may fare better.
            self.dropped += len(lines)
            logger.warning("%d access lines could not be written: %s", len(lines), error)


def _encoded(lines: list[Record]) -> bytes:
    """A line of JSON for each. Numbers that orjson does not write are rare, and must not silence all other lines."""
    parts: list[bytes] = []
    begin, second = 0, b""
    for line in lines:
        micros = round(line.pop("started_at") * 1_000_000) - begin
        if not second or not 0 <= micros < 1_000_000:
            whole, micros = divmod(micros + begin, 1_000_000)
            begin, second = whole * 1_000_000, _LINE_STARTS + _second(whole)
        try:
            told = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except (TypeError, ValueError):
            told = json.dumps(line, default=str).encode() + b"\n"
        parts += (second, _MILLISECONDS[micros // 1000], told[1:])
    return b"".join(parts)


_LINE_STARTS = b'{"timestamp":"'
_LINE_GOES_ON = b'+00:00","level":"info","logger":"llmgateway.access","message":"request",'
_MILLISECONDS = tuple(b".%03d%b" % (number, _LINE_GOES_ON) for number in range(1000))


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


class LineWriter(Protocol):
    """Where access lines go. Writing one never waits. A line holds `started_at` and more; it is the writer's from then on."""

    def write(self, line: Record) -> None: ...


class Telemetry:
    """Takes note of every finished request, refused ones included."""

    def __init__(self, access_log: LineWriter | None) -> None:
        self.figures = Figures()
        self._access_log = access_log
        self._refused: dict[tuple[int, int, str, str, str, str, str], int] = defaultdict(int)

    def finished(self, path: str, row: Record, phases: Mapping[str, float]) -> None:
        """An admitted request has ended; `row` is its ledger row."""
        figures = self.figures
        status, duration_ms = row["http_status"] or 499, row["duration_us"] / 1000
        labels = (path, row["stream"], row["deployment"], status, row["operation"], row["provider"], row["model"])
        input_tokens, output_tokens = _inclusive(row)
        series = figures.series[labels]
        series.requests += 1
        series.input_tokens += input_tokens
        series.output_tokens += output_tokens
        series.cost_pico_usd += row["cost_pico_usd"]
        # As `observe` does it; six calls of it would take as long as all the rest.
        observed = series.duration_ms
        observed.counts[bisect_left(LATENCY_BOUNDS_MS, duration_ms)] += 1
        observed.total += duration_ms
        if row["ttft_us"] is not None:
            series.ttft_s.observe(row["ttft_us"] / 1e6)
        if not row["priced"]:
            figures.unpriced += 1
        for phase, seconds in phases.items():
            observed = figures.phases_s[phase]
            observed.counts[bisect_left(PHASE_BOUNDS_S, seconds)] += 1
            observed.total += seconds
        if self._access_log is not None:
            self._access_log.write(_access_line(path, row, input_tokens, output_tokens))

    def answered(self, path: str, line: Record) -> None:
        """The gateway answered by itself: a refusal, or a list of models. `line` holds what is known."""
        series = self.figures.series[path, line["stream"], "", line["http_status"], "", "", ""]
        series.requests += 1
        series.duration_ms.observe(line["duration_ms"])
        if line["error_type"]:
            self._count_refusal(line)
        if self._access_log is not None:
            self._access_log.write(line)

    def _count_refusal(self, line: Record) -> None:
        self.figures.refusals[line["error_type"]] += 1
        if line["key_id"]:
            hour = int(line["started_at"]) // 3600 * 3600
            who = (line["team_id"], line["team"], line["key_id"], line["key_name"])
            self._refused[(hour, *who, line["alias"], line["error_type"])] += 1

    def take_refused(self) -> list[Record]:
        """The refusals of known keys since the last call, for the rollups."""
        taken, self._refused = self._refused, defaultdict(int)
        names = ("hour", "team_id", "team_name", "key_id", "key_name", "alias", "code")
        return [{**dict(zip(names, group, strict=True)), "count": count} for group, count in taken.items()]


def _inclusive(row: Record) -> tuple[int, int]:
    """Input and output tokens as OpenTelemetry counts them: cached and reasoning ones included."""
    cached = row["cache_read"] + row["cache_write_5m"] + row["cache_write_1h"]
    return (
        row["input"] + cached + row["audio_input"] + row["image_input"],
        row["output"] + row["reasoning"] + row["audio_output"],
    )


def _access_line(path: str, row: Record, input_tokens: int, output_tokens: int) -> Record:
    line = {
        "started_at": row["started_at"],
        "request_id": row["id"],
        "client_request_id": row["client_request_id"],
        "path": path,
        "http_status": row["http_status"] or 499,
        "status": row["status"],
        "error_type": row["error_type"],
        "key_id": row["key_id"],
        "key_name": row["key_name"],
        "team": row["team_name"],
        "end_user": row["end_user"],
        "client_ip": row["client_ip"],
        "operation": row["operation"],
        "alias": row["alias"],
        "model": row["model"],
        "provider": row["provider"],
        "deployment": row["deployment"],
        "stream": row["stream"],
        "attempts": len(row["attempts"]),
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "usage_source": row["usage_source"],
        "cost_pico_usd": row["cost_pico_usd"],
        "duration_ms": row["duration_us"] / 1000,
        "ttft_ms": None if row["ttft_us"] is None else row["ttft_us"] / 1000,
    }
    if cache := row.get("cache"):
        line["cache"] = cache
    return line

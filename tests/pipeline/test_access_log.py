"""The access log: what cannot be written must not silence what can."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmgateway.pipeline.telemetry import AccessLog


def test_lines_are_written_in_order_even_with_numbers_that_no_64_bits_hold(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = AccessLog(descriptor, interval_s=0.01)
    log.start()

    for number in (1, 10**30, 3):
        log.write({"started_at": 0.0, "number": number})
    log.close()
    os.close(descriptor)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 10**30, 3]
    assert lines[0]["timestamp"] == "1970-01-01T00:00:00.000+00:00"


def test_each_line_says_when_its_request_began_though_requests_end_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = AccessLog(descriptor)
    moments = [1_773_489_600.0, 1_773_489_600.9995, 1_773_489_601.001, 1_773_489_599.25, 1_773_489_600.0015, -0.5]

    for moment in moments:
        log.write({"started_at": moment, "number": 1})
    log.start()
    log.close()
    os.close(descriptor)

    said = [datetime.fromisoformat(json.loads(line)["timestamp"]) for line in path.read_text().splitlines()]
    whole_ms = [math.floor(moment * 1000) / 1000 for moment in moments]
    assert said == [datetime.fromtimestamp(moment, UTC) for moment in whole_ms]


def test_a_reader_that_went_away_is_counted_and_does_not_end_the_log(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog(writing, interval_s=0.01)
    log.start()

    log.write({"started_at": 0.0, "number": 1})
    log.close()
    os.close(writing)

    assert log.dropped == 1
    assert "could not be written" in caplog.text

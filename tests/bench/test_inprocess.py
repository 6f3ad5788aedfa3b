"""The bench without sockets: it must go on working with the product that it drives."""

from __future__ import annotations

import pytest
import uvloop

from bench.inprocess import measured


@pytest.mark.parametrize("stream", [False, True])
def test_requests_are_answered_and_measured(stream: bool) -> None:
    figures = uvloop.run(measured(stream=stream, count=64, rounds=2, profile=0))

    assert len(figures) == 2
    assert min(figures) > 0

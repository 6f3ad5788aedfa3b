"""Header lines that the gateway writes itself."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.header_lines import line, pairs


def test_lines_are_pairs_for_other_servers() -> None:
    lines = line(b"x-gateway-model", "größer: best".encode()) + b"x-gateway-attempts: 1\r\n"

    assert pairs(lines) == [(b"x-gateway-model", "größer: best".encode()), (b"x-gateway-attempts", b"1")]
    assert pairs(b"") == []


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nx-evil: 1", b"a\r", b"a\0"])
def test_a_value_writes_no_line_of_its_own(value: bytes) -> None:
    with pytest.raises(ValueError, match="x-gateway-model"):
        line(b"x-gateway-model", value)

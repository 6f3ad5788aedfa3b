"""How numbers are written for people. Nothing is computed with the results. No Django."""

from __future__ import annotations

NOTHING = "–"


def count(number: int | None) -> str:
    """`12,345`"""
    return NOTHING if number is None else f"{number:,}"


def duration(microseconds: float | None) -> str:
    """A duration in the unit that suits it: `0.42 ms`, `37 ms`, `1.24 s`, `95 s`."""
    if microseconds is None:
        return NOTHING
    if microseconds < 10_000:
        return f"{microseconds / 1000:.2f} ms"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.0f} ms"
    if microseconds < 10_000_000:
        return f"{microseconds / 1_000_000:.2f} s"
    return f"{microseconds / 1_000_000:.0f} s"


def share(fraction: float | None) -> str:
    """`2.5 %`; what is not zero never reads as zero."""
    if fraction is None:
        return NOTHING
    if 0 < fraction < 0.0001:
        return "< 0.01 %"
    return f"{fraction * 100:.2f}".rstrip("0").rstrip(".") + " %"

"""Bars and curves as SVG, without a library: readable in light and in dark, with titles, axes and units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_LEFT, _RIGHT, _TOP = 190, 92, 64
_BAR, _GAP = 20, 12
_CURVE_HEIGHT, _CURVE_LEFT, _BOTTOM = 250, 76, 62
_CHARACTER = 6.6
"""About the width of one at 12 pixels."""
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3d4451; }
.title { font-size: 16px; font-weight: 600; fill: #14181f; }
.unit, .tick { fill: #5b6472; }
.value { font-weight: 600; fill: #14181f; }
.grid { stroke: #d9dde3; } .axis { stroke: #8b94a3; } .whisker { stroke: #14181f; stroke-width: 1.5; }
.paper { fill: #ffffff; }
.c0 { --c: #2563c9; } .c1 { --c: #c2570c; } .c2 { --c: #0f7b62; } .c3 { --c: #7c8798; }
rect.bar, circle { fill: var(--c); } path.line { fill: none; stroke: var(--c); stroke-width: 2; }
path.band { fill: var(--c); opacity: 0.16; }
@media (prefers-color-scheme: dark) {
  text { fill: #c3cad5; } .title, .value { fill: #f2f4f8; } .unit, .tick { fill: #9aa4b2; }
  .grid { stroke: #333b47; } .axis { stroke: #6b7584; } .whisker { stroke: #f2f4f8; } .paper { fill: #14181f; }
  .c0 { --c: #6ea4ff; } .c1 { --c: #f59a52; } .c2 { --c: #4fc9a8; } .c3 { --c: #8b96a7; }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with its spread. `color`: 0 for what a plot is about, 3 for what it is held against."""

    label: str
    value: float
    low: float
    high: float
    color: int = 3


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of a curve with its spread."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    dots: Sequence[Dot]
    color: int = 0


def bars(
    title: str, unit: str, every: Sequence[Bar], *, note: str = "median; whiskers: smallest and largest round"
) -> str:
    """Horizontal bars from zero, or to the left of it. Fifty times between them makes the axis logarithmic."""
    values = sorted(max(bar.high, 0.0) for bar in every)
    logarithmic = all(bar.low > 0 for bar in every) and len(values) > 1 and values[-1] > 50 * values[0]
    ticks = (
        _log_ticks(min(bar.low for bar in every), values[-1])
        if logarithmic
        else _ticks(min(0.0, *(bar.low for bar in every)), max(0.0, *(bar.high for bar in every)))
    )
    height = _TOP + len(every) * (_BAR + _GAP) + 52
    bottom = height - 46
    scale = _Scale(ticks[0], ticks[-1], _LEFT, WIDTH - _RIGHT, logarithmic=logarithmic)
    parts = []
    for tick in ticks:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    zero = scale(ticks[0] if logarithmic else 0.0)
    for number, bar in enumerate(every):
        parts += _bar(bar, _TOP + number * (_BAR + _GAP), zero, scale)
    parts.append(f'<line class="axis" x1="{zero:.1f}" y1="{_TOP - 8}" x2="{zero:.1f}" y2="{bottom}"/>')
    axis = f"{unit} (logarithmic)" if logarithmic else unit
    parts.append(
        f'<text class="unit" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(axis)}</text>'
    )
    return _picture(title, note, height, parts)


def _bar(bar: Bar, y: float, zero: float, scale: _Scale) -> list[str]:
    x, low, high = scale(bar.value), scale(bar.low), scale(bar.high)
    middle = y + _BAR / 2
    left, width = min(x, zero), max(abs(x - zero), 1)
    return [
        f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="bar c{bar.color}" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
        f'<path class="whisker" fill="none" d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"/>',
        f'<text class="value" x="{max(high, zero) + 8:.1f}" y="{middle + 4}">{_number(bar.value)}</text>',
    ]


def curves(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """Lines over a logarithmic axis, from zero up, each with the band of its rounds."""
    dots = [dot for line in lines for dot in line.dots]
    y_ticks = _ticks(min(0.0, *(dot.low for dot in dots)), max(dot.high for dot in dots))
    top, bottom = _TOP + 8, _TOP + 8 + _CURVE_HEIGHT
    xs = sorted({dot.x for dot in dots})
    across = _Scale(xs[0], xs[-1] if len(xs) > 1 else xs[0] * 10, _CURVE_LEFT + 24, WIDTH - 40, logarithmic=True)
    up = _Scale(y_ticks[0], y_ticks[-1], bottom, top, logarithmic=False)
    parts = []
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_CURVE_LEFT}" y1="{y:.1f}" x2="{WIDTH - 24}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_CURVE_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for x in xs:
        parts.append(f'<line class="axis" x1="{across(x):.1f}" y1="{bottom}" x2="{across(x):.1f}" y2="{bottom + 5}"/>')
        parts.append(
            f'<text class="tick" x="{across(x):.1f}" y="{bottom + 20}" text-anchor="middle">{_number(x)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_CURVE_LEFT}" y1="{bottom}" x2="{WIDTH - 24}" y2="{bottom}"/>')
    for line in lines:
        parts += _line(line, across, up)
    parts.append(
        f'<text class="unit" x="{WIDTH / 2}" y="{bottom + 44}" text-anchor="middle">{escape(x_label)} (logarithmic)</text>'
    )
    parts.append(
        f'<text class="unit" transform="translate(18 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return _picture(title, "median; band: smallest and largest round", bottom + _BOTTOM, parts, legend=lines)


def _line(line: Line, across: _Scale, up: _Scale) -> list[str]:
    path = "M" + "L".join(f"{across(dot.x):.1f} {up(dot.value):.1f}" for dot in line.dots)
    there = [f"{across(dot.x):.1f} {up(dot.high):.1f}" for dot in line.dots]
    back = [f"{across(dot.x):.1f} {up(dot.low):.1f}" for dot in reversed(line.dots)]
    return [
        f'<path class="band c{line.color}" d="M{"L".join(there + back)}Z"/>',
        f'<path class="line c{line.color}" d="{path}"/>',
        *(
            f'<circle class="c{line.color}" cx="{across(dot.x):.1f}" cy="{up(dot.value):.1f}" r="3.5"/>'
            for dot in line.dots
        ),
    ]


def _picture(title: str, note: str, height: float, parts: Sequence[str], *, legend: Sequence[Line] = ()) -> str:
    entries, x = [], WIDTH - 24.0
    for line in reversed(legend):
        x -= len(line.label) * _CHARACTER
        entries.append(f'<text x="{x:.1f}" y="46">{escape(line.label)}</text>')
        entries.append(f'<circle class="c{line.color}" cx="{x - 10:.1f}" cy="42" r="5"/>')
        x -= 32
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title, quote=True)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>',
            f'<text class="title" x="16" y="26">{escape(title)}</text>',
            f'<text class="unit" x="16" y="46">{escape(note)}</text>',
            *entries,
            *parts,
            "</svg>\n",
        ]
    )


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, logarithmic: bool) -> None:
        self._of = math.log10 if logarithmic else float
        self._least = low
        self._low, self._begin = self._of(low), begin
        self._per_unit = (end - begin) / ((self._of(high) - self._low) or 1.0)

    def __call__(self, value: float) -> float:
        return self._begin + (self._of(max(value, self._least)) - self._low) * self._per_unit


def _ticks(low: float, high: float) -> list[float]:
    """Round values from at or below `low` to at or above `high`, four to eight of them."""
    span = (high - low) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / 5))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (magnitude * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
    return f"{value:,.1f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.0f}"

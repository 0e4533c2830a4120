"""Charts as inline SVG. Colours are CSS classes (`m0`, `m1`, ... and `base`), so both colour
schemes work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# viewBox units are CSS pixels at the width of a chart on a desktop; on a phone a chart fills the
# line, which is about as wide.


@dataclass(frozen=True)
class Mark:
    """A value with its interval; low or high None: no interval."""

    label: str
    css: str  # colour class
    value: float
    low: float | None
    high: float | None
    text: str  # the value as it is written
    note: str = ""  # the interval as it is written


@dataclass(frozen=True)
class Series:
    label: str
    css: str
    # (x, value, low, high) of each point
    points: tuple[tuple[float, float | None, float | None, float | None], ...]


def bars(
    marks: Sequence[Mark], *, from_zero: bool = True, around_zero: bool = False, label: str = ""
) -> str:
    """One row per mark: name, bar (or dot, where the axis does not start at 0) with whiskers,
    value. Positions are in per cent, so the chart scales with its container.

    around_zero: for differences; a line is drawn at 0, and the axis spans from the lowest to the
    highest end of an interval.
    """
    from_zero = from_zero and not around_zero
    zero = [0.0] if marks and around_zero else []
    highs = [x for mark in marks for x in (mark.value, mark.high) if x is not None] + zero
    lows = [x for mark in marks for x in (mark.value, mark.low) if x is not None] + zero
    if not highs:
        return ""
    start, end = (0.0, max(highs) or 1.0) if from_zero else (min(lows), max(highs))
    if not from_zero:
        margin = (end - start or abs(end) or 1.0) * 0.08
        start, end = start - margin, end + margin

    def at(x: float) -> str:
        return f"{100 * (x - start) / (end - start):.3f}%"

    rows = []
    for mark in marks:
        drawn = '<line class="track" x1="0" x2="100%" y1="14" y2="14"/>'
        if around_zero:
            drawn += f'<line class="zero" x1="{at(0.0)}" x2="{at(0.0)}" y1="0" y2="28"/>'
        if from_zero:
            drawn += f'<rect class="bar" x="0" y="6" width="{at(mark.value)}" height="16" rx="2"/>'
        if mark.low is not None and mark.high is not None:
            low, high = at(mark.low), at(mark.high)
            drawn += (
                f'<line class="whisker" x1="{low}" x2="{high}" y1="14" y2="14"/>'
                f'<line class="whisker" x1="{low}" x2="{low}" y1="10" y2="18"/>'
                f'<line class="whisker" x1="{high}" x2="{high}" y1="10" y2="18"/>'
            )
        if not from_zero:
            drawn += f'<circle class="dot" cx="{at(mark.value)}" cy="14" r="5"/>'
        rows.append(
            f'<li class="{mark.css}"><span class="name">{escape(mark.label)}</span>'
            '<svg height="28" role="img" '
            f'aria-label="{escape(mark.label)} '
            f'{escape(mark.text)}">{drawn}</svg>'
            f'<span class="value">{escape(mark.text)}<small>{escape(mark.note)}</small></span></li>'
        )
    ends = (
        ""
        if from_zero
        else f'<p class="ends"><span>{_short(start)}</span><span>{_short(end)}</span></p>'
    )
    kind = "bars around" if around_zero else "bars"
    return f'<ul class="{kind}" aria-label="{escape(label)}">{"".join(rows)}</ul>{ends}'


def dodged(series: Sequence[Series], names: Sequence[str], *, label: str = "") -> str:
    """Several series over categories: thin lines through dots with whiskers. The series are shifted
    sideways so that none hides another.
    """
    width, height = 500, 270
    left, right, top, bottom = 46, 8, 10, 34
    every = [x for line in series for _, *numbers in line.points for x in numbers if x is not None]
    if not every or not names:
        return ""
    chart = frame(width, height, (left, right, top, bottom), every)
    slot = (width - left - right) / len(names)
    step = min(14.0, slot * 0.7 / max(1, len(series)))
    parts, y = chart.parts, chart.y
    for place, name in enumerate(names):
        middle = left + slot * (place + 0.5)
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{height - 10}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    for number, line in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * step
        dots, path = [], []
        for where, value, low, high in line.points:
            if value is None:
                continue
            x = left + slot * (where + 0.5) + shift
            path.append(f"{x:.1f},{y(value):.1f}")
            if low is not None and high is not None:
                dots.append(
                    f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y(low):.1f}" '
                    f'y2="{y(high):.1f}"/>'
                )
            tooltip = f"<title>{escape(line.label)}: {value:.4f}</title>"
            dots.append(
                f'<circle class="dot" cx="{x:.1f}" cy="{y(value):.1f}" r="4">{tooltip}</circle>'
            )
        parts.append(
            f'<g class="{line.css}"><polyline class="thin" '
            f'points="{" ".join(path)}"/>{"".join(dots)}</g>'
        )
    return chart.svg("", label)


def curve(
    values: Sequence[float | None], css: str, *, best: int | None = None, label: str = ""
) -> str:
    """One value per epoch; a ring marks the best epoch."""
    width, height = 340, 170
    left, right, top, bottom = 46, 14, 12, 26
    finite = [(x, v) for x, v in enumerate(values) if v is not None and math.isfinite(v)]
    if not finite:
        return ""
    numbers = [v for _, v in finite]
    ticks = _ticks(min(numbers), max(numbers), 4)
    y = _scale(ticks[0], ticks[-1], height - bottom, top)
    x = _scale(0, max(1, len(values) - 1), left + 8, width - right)
    parts = [_grid(ticks, y, left, width - right)]
    last = len(values) - 1
    for epoch in sorted({0, last} | ({last // 2} if last >= 4 else set())):
        parts.append(
            f'<text class="tick" x="{x(epoch):.1f}" '
            f'y="{height - 6}" '
            f'text-anchor="middle">{epoch + 1}</text>'
        )
    points = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in finite)
    dots = "".join(
        (
            f'<circle class="dot" cx="{x(e):.1f}" '
            f'cy="{y(v):.1f}" '
            'r="2.5"><title>epoch '
            f"{e + 1}: {v:.5g}</title></circle>"
        )
        for e, v in finite
    )
    ring = ""
    if best is not None and best < len(values) and values[best] is not None:
        ring = (
            f'<circle class="ring" cx="{x(best):.1f}" cy="{y(values[best] or 0.0):.1f}" r="6.5"/>'
        )
    parts.append(f'<g class="{css}"><polyline class="line" points="{points}"/>{dots}{ring}</g>')
    return _svg(width, height, parts, label)


@dataclass(frozen=True)
class Frame:
    """A grid with its ticks, to draw on. y: maps a value to its height in the chart; parts: the SVG
    markup so far.
    """

    width: int
    height: int
    y: _Scale
    parts: list[str]

    def svg(self, drawn: str, label: str) -> str:
        return _svg(self.width, self.height, [*self.parts, drawn], label)


def frame(
    width: int,
    height: int,
    margins: tuple[int, int, int, int],
    values: Sequence[float],
    *,
    percent: bool = False,
) -> Frame:
    """The frame for these values; its axis starts at 0 unless all values lie close together.
    margins: left, right, top, bottom.
    """
    left, right, top, bottom = margins
    ticks = _ticks(
        min(0.0, min(values)) if min(values) < 0.4 * max(values) else min(values), max(values), 5
    )
    y = _scale(ticks[0], ticks[-1], height - bottom, top)
    return Frame(width, height, y, [_grid(ticks, y, left, width - right, percent=percent)])


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} '
        f'{height}" '
        'role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _grid(
    ticks: Sequence[float], y: _Scale, left: float, right: float, *, percent: bool = False
) -> str:
    unit, scale = (" %", 100.0) if percent else ("", 1.0)
    digits = (
        max(0, -math.floor(math.log10(scale * (ticks[1] - ticks[0])) + 1e-9))
        if len(ticks) > 1
        else 2
    )
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{left - 8}" '
        f'y="{y(t) + 4:.1f}" '
        f'text-anchor="end">{scale * t:,.{digits}f}{unit}</text>'
        for t in ticks
    )


class _Scale:
    def __init__(self, start: float, end: float, first: float, last: float) -> None:
        self.start, self.span, self.first, self.last = start, (end - start) or 1.0, first, last

    def __call__(self, value: float) -> float:
        return self.first + (value - self.start) / self.span * (self.last - self.first)


def _scale(start: float, end: float, first: float, last: float) -> _Scale:
    return _Scale(start, end, first, last)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Evenly spaced round numbers that enclose low..high, about `about` of them."""
    if high <= low:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")

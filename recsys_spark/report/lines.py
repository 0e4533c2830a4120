"""Lines over ordered places (cut-offs, groups of items), each with the band of its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recsys_spark.report.charts import Series, frame

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34


def lines(series: Sequence[Series], names: Sequence[str], *, label: str = "", percent: bool = False) -> str:
    """Places are equally far apart, in the order of `names`; x of a point is its place. percent: values are shares, written so."""
    points = {line.label: [(x, value, low, high) for x, value, low, high in line.points if value is not None] for line in series}
    every = [number for of_line in points.values() for _, *numbers in of_line for number in numbers if number is not None]
    if not every or not names:
        return ""
    chart = frame(500, 270, (LEFT, RIGHT, TOP, BOTTOM), every, percent=percent)
    step = (500 - LEFT - RIGHT - 24) / max(1, len(names) - 1)

    def x(place: float) -> float:
        return LEFT + 12 + step * place if len(names) > 1 else (LEFT + 500 - RIGHT) / 2

    for place, name in enumerate(names):
        chart.parts.append(f'<text class="tick" x="{x(place):.1f}" y="{270 - 10}" text-anchor="middle">{escape(name)}</text>')
    bands, drawn = "", ""
    for line in series:
        there = points[line.label]
        sure = [(x(place), low, high) for place, _, low, high in there if low is not None and high is not None]
        if len(sure) > 1:
            outline = [f"{at:.1f},{chart.y(high):.1f}" for at, _, high in sure]
            outline += [f"{at:.1f},{chart.y(low):.1f}" for at, low, _ in sure[::-1]]
            bands += f'<polygon class="band {line.css}" points="{" ".join(outline)}"/>'
        path = " ".join(f"{x(place):.1f},{chart.y(value):.1f}" for place, value, _, _ in there)
        dots = ""
        for at_place, value, low, high in there:
            written = f"{100 * value:.1f} %" if percent else f"{value:.4f}"
            sure_text = "" if low is None or high is None else f" ({low:.4f}–{high:.4f})"
            dots += (f'<circle class="dot" cx="{x(at_place):.1f}" cy="{chart.y(value):.1f}" r="3.5">'
                     f"<title>{escape(line.label)}, {escape(names[int(at_place)])}: {written}{sure_text}</title></circle>")
        drawn += f'<g class="{line.css}"><polyline class="line" points="{path}"/>{dots}</g>'
    return chart.svg(bands + drawn, label)

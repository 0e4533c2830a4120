"""Line charts over ordered places (cut-offs, groups of items), with intervals drawn as bands."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recsys_spark.report.charts import Series, frame

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
LETTER = 8  # width of a letter under the places, and of the gap between two names


def lines(
    series: Sequence[Series], names: Sequence[str], *, label: str = "", percent: bool = False
) -> str:
    """Places are equally spaced, in the order of `names`; x of a point is its place. percent:
    values are shares, written in per cent.
    """
    points = {
        line.label: [
            (x, value, low, high) for x, value, low, high in line.points if value is not None
        ]
        for line in series
    }
    every = [
        number
        for of_line in points.values()
        for _, *numbers in of_line
        for number in numbers
        if number is not None
    ]
    if not every or not names:
        return ""
    chart = frame(500, 270, (LEFT, RIGHT, TOP, BOTTOM), every, percent=percent)
    step = (500 - LEFT - RIGHT - 24) / max(1, len(names) - 1)

    def x(place: float) -> float:
        return LEFT + 12 + step * place if len(names) > 1 else (LEFT + 500 - RIGHT) / 2

    room = (500 - LEFT - RIGHT) // (LETTER * (1 + max(map(len, names))))
    for place, name in enumerate(names):
        if place % -(-len(names) // max(1, room)):  # no room for every name
            continue
        chart.parts.append(
            f'<text class="tick" x="{x(place):.1f}" y="{270 - 10}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    bands, drawn = "", ""
    for line in series:
        line_points = points[line.label]
        sure = [
            (x(place), low, high)
            for place, _, low, high in line_points
            if low is not None and high is not None
        ]
        if len(sure) > 1:
            outline = [f"{at:.1f},{chart.y(high):.1f}" for at, _, high in sure]
            outline += [f"{at:.1f},{chart.y(low):.1f}" for at, low, _ in sure[::-1]]
            bands += f'<polygon class="band {line.css}" points="{" ".join(outline)}"/>'
        path = " ".join(
            f"{x(place):.1f},{chart.y(value):.1f}" for place, value, _, _ in line_points
        )
        dots = ""
        for at_place, value, low, high in line_points:
            written = _percent(value) if percent else _number(value)
            sure_text = "" if low is None or high is None else f" ({low:.4f}–{high:.4f})"
            dots += (
                f'<circle class="dot" cx="{x(at_place):.1f}" cy="{chart.y(value):.1f}" r="3.5">'
                f"<title>{escape(line.label)}, {escape(names[int(at_place)])}: "
                f"{written}{sure_text}</title></circle>"
            )
        drawn += f'<g class="{line.css}"><polyline class="line" points="{path}"/>{dots}</g>'
    return chart.svg(bands + drawn, label)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    """A metric has four digits behind the point; a count has none."""
    return f"{value:.4f}" if value < 10 else f"{value:,.0f}"

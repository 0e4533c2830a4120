"""The picture of the events (`content.Profile`): a section of the report, and on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.report import charts, shell
from recsys_spark.report.charts import Mark, Series
from recsys_spark.report.content import Period, Profile, Tail
from recsys_spark.report.lines import lines

SHARES = (0.01, 0.1, 0.5)  # of the items whose part of the events is said in words
STEPS = 20  # points of a curve of shares
BAR = 40  # characters of the longest bar on a terminal
_DATE = {"hour": "%m-%d %H:00", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}


def section(profile: Profile) -> str:
    """The charts of the data as markup."""
    cards = [
        shell.card(_curve(profile), "Share of the events of the most popular items"),
        shell.card(_groups(profile.users, "users"), "Users by their number of events"),
        shell.card(_groups(profile.items, "items"), "Items by their number of events"),
    ]
    if len(profile.periods) > 1:
        cards.insert(0, shell.card(_over_time(profile), f"Events a {profile.unit}"))
    if profile.values:
        cards.append(shell.card(_values(profile), "Events by value"))
    return shell.card(shell.facts(facts(profile))) + f'<div class="halves">{"".join(cards)}</div>'


def show(console: Console, profile: Profile, title: str) -> None:
    """Print the same as a table of facts and bars."""
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    for name, text in facts(profile):
        table.add_row(Text(name, "dim"), Text(text))
    console.print(table)
    for heading, bars in (
        (f"events a {profile.unit}", _bars_of_periods(profile)),
        ("users by number of events", _bars_of_groups(profile.users)),
        ("items by number of events", _bars_of_groups(profile.items)),
        ("events by value", [(f"{value:g}", count) for value, count in profile.values]),
    ):
        if len(bars) > 1:
            _print_bars(console, heading, bars)


def facts(profile: Profile) -> list[tuple[str, str]]:
    """(name, value in words), also of a table without events."""
    pairs = profile.users.entities * profile.items.entities
    density = f"{100 * (profile.events - profile.repeated) / pairs:.3g} %" if pairs else "none"
    shares = ", ".join(
        f"{100 * profile.items.share(top):.0f} % on the top {100 * top:.0f} %" for top in SHARES
    )
    named = [
        ("events", f"{profile.events:,}"),
        ("users", _entities(profile.users)),
        ("items", _entities(profile.items)),
        ("density", f"{density} of all pairs of a user and an item"),
        ("repeats", f"{profile.repeated:,} events beyond the first of their user and item"),
    ]
    if profile.events:
        named.append(("long tail", f"{shares} of the items"))
    if profile.first is not None and profile.last is not None:
        named.append(("time", f"{_day(profile.first)} to {_day(profile.last)}"))
    elif profile.events:
        named.append(("time", "no dates; lines of files have their order"))
    if profile.value_range is not None:
        low, mean, high = profile.value_range
        text = f"{low:g} in every event" if low == high else f"{low:g} to {high:g}, mean {mean:.3g}"
        named.append(("value", text))
    return named


def _entities(tail: Tail) -> str:
    if not tail.entities:
        return "none"
    mean = tail.events / tail.entities
    return (
        f"{tail.entities:,}, with {tail.counts[0][0]:,} to {tail.most:,} events each "
        f"(median {tail.median:,}, mean {mean:,.1f})"
    )


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _curve(profile: Profile) -> str:
    tops = [step / STEPS for step in range(1, STEPS + 1)]
    points = tuple((n, profile.items.share(top), None, None) for n, top in enumerate(tops))
    names = [f"{100 * top:.0f} %" for top in tops]
    return lines([Series("items", "m0", points)], names, label="share of events", percent=True)


def _groups(tail: Tail, label: str) -> str:
    return _drawn(_bars_of_groups(tail), label)


def _values(profile: Profile) -> str:
    return _drawn([(f"{value:g}", count) for value, count in profile.values], "events by value")


def _drawn(bars: Sequence[tuple[str, int]], label: str) -> str:
    total = sum(count for _, count in bars)
    marks = [
        Mark(name, "m0", count, None, None, f"{count:,}", f"{100 * count / total:.1f} %")
        for name, count in bars
    ]
    return charts.bars(marks, label=label)


def _over_time(profile: Profile) -> str:
    points = tuple((n, period.events, None, None) for n, period in enumerate(profile.periods))
    names = [_named(period, profile.unit) for period in profile.periods]
    return lines([Series("events", "m0", points)], names, label=f"events a {profile.unit}")


def _named(period: Period, unit: str) -> str:
    return time.strftime(_DATE.get(unit, "%Y"), time.gmtime(period.start))


def _bars_of_periods(profile: Profile) -> list[tuple[str, int]]:
    return [(_named(period, profile.unit), period.events) for period in profile.periods]


def _bars_of_groups(tail: Tail) -> list[tuple[str, int]]:
    return [
        (f"{low:,}" if low == high else f"{low:,} to {high:,}", entities)
        for low, high, entities in tail.groups()
    ]


def _print_bars(console: Console, heading: str, bars: Sequence[tuple[str, int]]) -> None:
    largest = max(count for _, count in bars) or 1
    table = Table(title=Text(heading), title_justify="left", show_header=False, box=None)
    for name, count in bars:
        table.add_row(Text(name, "dim"), Text(f"{count:,}", justify="right"), _bar(count, largest))
    console.print(table)


def _bar(count: int, largest: int) -> Text:
    """A sliver for a count that is small but there."""
    cells = round(BAR * count / largest)
    return Text("█" * cells if cells or not count else "▏")

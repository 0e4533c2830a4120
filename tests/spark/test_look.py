"""The picture of events, counted by hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from recsys_spark.commands.look import look
from recsys_spark.core.errors import TableError
from recsys_spark.etl.profile import profile
from recsys_spark.lake.tables import Lake
from recsys_spark.report import profile as shown
from recsys_spark.report.content import Period

DAY = 86_400
START = 1_577_836_800  # Wednesday, 1 January 2020
EVENTS = [
    ("ann", "a", START, 1.0),
    ("ann", "a", START + 60, 5.0),
    ("ann", "b", START + 60 * DAY, 1.0),
    ("bob", "a", START + 70 * DAY, 1.0),
]
SCHEMA = "user_id string, item_id string, ts long, value double"


def test_events_are_counted(spark) -> None:
    picture = profile(spark.createDataFrame(EVENTS, SCHEMA))
    assert (picture.events, picture.repeated) == (4, 1)
    assert picture.users.counts == ((1, 1), (3, 1)) and picture.items.counts == ((1, 1), (3, 1))
    assert (picture.first, picture.last) == (START, START + 70 * DAY)
    assert picture.values == ((1.0, 3), (5.0, 1)) and picture.value_range == (1.0, 2.0, 5.0)
    # 70 days are more than sixty: weeks, which begin on Mondays; the ones between are there
    assert picture.unit == "week" and len(picture.periods) == 11
    assert picture.periods[0] == Period(START - 2 * DAY, 2)
    assert [period.events for period in picture.periods[1:]] == [0] * 7 + [1, 0, 1]


def test_months_follow_each_other_over_the_turn_of_a_year(spark) -> None:
    rows = [("u", "i", START - 800 * DAY, 1.0), ("u", "i", START + 800 * DAY, 1.0)]
    picture = profile(spark.createDataFrame(rows, SCHEMA))
    assert picture.unit == "month" and sum(period.events for period in picture.periods) == 2
    assert len(picture.periods) == 54, "October 2017 to March 2022"


def test_line_numbers_are_no_dates_and_many_values_are_not_drawn(spark) -> None:
    rows = [(f"u{n}", "i", n, n / 7) for n in range(30)]
    picture = profile(spark.createDataFrame(rows, SCHEMA))
    assert picture.first is None and picture.periods == () and picture.values == ()
    assert ("time", "no dates; lines of files have their order") in shown.facts(picture)


def test_a_table_without_events_has_a_picture(spark) -> None:
    picture = profile(spark.createDataFrame([], SCHEMA))
    assert picture.events == 0 and picture.users.entities == 0
    assert ("users", "none") in shown.facts(picture)
    console = Console(file=io.StringIO(), width=100)
    shown.show(console, picture, "nothing")
    assert "nothing" in shown.section(picture) or "none" in shown.section(picture)


def test_what_is_printed_and_drawn_says_the_same(spark) -> None:
    picture = profile(spark.createDataFrame(EVENTS, SCHEMA))
    out = io.StringIO()
    shown.show(Console(file=out, width=120), picture, "[red]lake[/]")
    page = shown.section(picture)
    for text in ("2, with 1 to 3 events each", "1 events beyond the first", "2020-01-01 to"):
        assert text in out.getvalue() and text in page
    assert "[red]lake[/]" in out.getvalue(), "names are never markup"
    assert "Events a week" in page and "Events by value" in page


def test_a_lake_without_events_is_named(spark, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="found no table interactions.*recsys-spark run"):
        look(Lake(spark, str(tmp_path / "lake")))

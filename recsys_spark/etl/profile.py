"""A picture of events: how many, over what time, how unevenly they are spread over users and items,
which values they have. For `recsys-spark look` and the data page of the report.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.report.content import Period, Profile, Tail

VALUES = 20  # a picture of values is drawn where there are at most so many
PERIODS = 60  # of time, at most
UNITS = ("hour", "day", "week", "month", "year")
_UNIT_S = {"hour": 3_600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}
# Earlier times are no dates but line numbers of files without times (1 January 1980)
EARLIEST = 315_532_800
AT_ONCE = 3  # small jobs, which wait for Spark's scheduling more than for the cores


def profile(events: DataFrame) -> Profile:
    """events: user_id, item_id, ts (seconds), value. Reads them six times; collects a row for each
    different number of events of a user or an item.
    """
    events = events.select(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE)
    whole = events.agg(
        F.count(F.lit(1)).alias("events"),
        F.min(c.TS).alias("first"),
        F.max(c.TS).alias("last"),
        F.min(c.VALUE).alias("low"),
        F.max(c.VALUE).alias("high"),
        F.avg(c.VALUE).alias("mean"),
    ).collect()[0]
    dated = whole["first"] is not None and whole["first"] >= EARLIEST
    unit = _unit(whole["last"] - whole["first"]) if dated else ""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        users, items = (pool.submit(_tail, events, column) for column in (c.USER_ID, c.ITEM_ID))
        pairs = pool.submit(lambda: events.select(c.USER_ID, c.ITEM_ID).distinct().count())
        values = pool.submit(_values, events)
        periods = pool.submit(_periods, events, unit) if unit else None
    return Profile(
        events=whole["events"],
        repeated=whole["events"] - pairs.result(),
        users=users.result(),
        items=items.result(),
        first=whole["first"] if dated else None,
        last=whole["last"] if dated else None,
        unit=unit,
        periods=periods.result() if periods else (),
        value_range=(whole["low"], whole["mean"], whole["high"]) if whole["events"] else None,
        values=values.result(),
    )


def _tail(events: DataFrame, column: str) -> Tail:
    counts = events.groupBy(column).agg(F.count(F.lit(1)).alias("events"))
    rows = counts.groupBy("events").agg(F.count(F.lit(1)).alias("entities")).collect()
    return Tail(tuple(sorted((row["events"], row["entities"]) for row in rows)))


def _values(events: DataFrame) -> tuple[tuple[float, int], ...]:
    """Empty where there are more than VALUES different ones."""
    rows = events.groupBy(c.VALUE).count().limit(VALUES + 1).collect()
    if len(rows) > VALUES:
        return ()
    return tuple(sorted((row[c.VALUE], row["count"]) for row in rows))


def _unit(span_s: int) -> str:
    """The shortest unit that gives at most PERIODS periods."""
    return next((unit for unit, length in _UNIT_S.items() if span_s <= PERIODS * length), "year")


def _periods(events: DataFrame, unit: str) -> tuple[Period, ...]:
    """Periods without events between others are there, with 0."""
    start = F.unix_seconds(F.date_trunc(unit, F.timestamp_seconds(c.TS)))
    rows = events.groupBy(start.alias("start")).count().collect()
    counts = {row["start"]: row["count"] for row in rows}
    starts = [min(counts)]
    while starts[-1] < max(counts):
        starts.append(_next(starts[-1], unit))
    return tuple(Period(at, counts.get(at, 0)) for at in starts)


def _next(start: int, unit: str) -> int:
    if unit in ("hour", "day", "week"):
        return start + _UNIT_S[unit]
    day = datetime.fromtimestamp(start, UTC)
    later = (
        day.replace(year=day.year + 1)
        if unit == "year"
        else day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1)
    )
    return int(later.timestamp())

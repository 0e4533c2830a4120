"""What a second event of one user and item means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c

# events: another event. latest, first: one event, the one with that time. sum: one event at the
# latest time, with the sum of all values
Repeats = Literal["events", "latest", "first", "sum"]


def apply(events: DataFrame, repeats: Repeats) -> DataFrame:
    """The events (user_id, item_id, ts, value, ...), one of each user and item unless each counts.
    Further columns are those of the event that stays.
    """
    if repeats == "events":
        return events
    by_time = F.asc(c.TS) if repeats == "first" else F.desc(c.TS)
    pair = Window.partitionBy(c.USER_ID, c.ITEM_ID)
    placed = events.withColumn("_place", F.row_number().over(pair.orderBy(by_time)))
    if repeats == "sum":
        placed = placed.withColumn(c.VALUE, F.sum(c.VALUE).over(pair))
    return placed.where(F.col("_place") == 1).select(*events.columns)


def said(config: Mapping[str, Any]) -> Repeats:
    """What an ingest step's configuration says of them."""
    return cast(Repeats, config.get("repeats", "events"))


def may_be(config: Mapping[str, Any]) -> bool:
    """Whether there may be several events of one user and item; a named data set has none."""
    delimited = config.get("delimited")
    own = config.get("source") is not None or delimited is not None
    return said(config) == "events" and own and not (delimited or {}).get("one_per_pair")

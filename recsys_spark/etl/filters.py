"""Which events take part at all. One pass each, in this order: time (where the rule of the split sets an end), value, items, users.

So every kept user has `min_user_events`; an item may fall below `min_item_events` again when users leave (no k-core is sought).
"""

from __future__ import annotations

from typing import Iterator

from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings


class Filters(Settings):
    min_value: float | None = None  # events below are dropped
    min_item_events: int = Field(0, ge=0)
    min_user_events: int = Field(0, ge=0)


def passes(events: DataFrame, filters: Filters, until: int | None = None) -> Iterator[tuple[str, DataFrame]]:
    """(name of the filter, events left after it), one after another; filters that are off are left out."""
    if until is not None:  # first, so that nothing later is counted
        events = events.where(F.col(c.TS) < until)
        yield "later", events
    if filters.min_value is not None:
        events = events.where(F.col(c.VALUE) >= filters.min_value)
        yield "min_value", events
    for name, column, least in (("min_item_events", c.ITEM_ID, filters.min_item_events),
                                ("min_user_events", c.USER_ID, filters.min_user_events)):
        if least > 1:
            counted = events.withColumn("_events", F.count("*").over(Window.partitionBy(column)))
            events = counted.where(F.col("_events") >= least).drop("_events")
            yield name, events


def apply(events: DataFrame, filters: Filters, until: int | None = None) -> tuple[DataFrame, dict[str, int]]:
    """The events that are kept, and {filter: events it dropped}. Counts only when a filter is on."""
    dropped: dict[str, int] = {}
    left = -1
    for name, kept in passes(events, filters, until):
        left = events.count() if left < 0 else left
        now = kept.count()
        dropped[name], left, events = left - now, now, kept
    return events, dropped

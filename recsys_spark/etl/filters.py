"""Filters of events, applied once each in this order: time (where the rule of the split sets an
end), value, items, users.

So every kept user has `min_user_events`; an item may fall below `min_item_events` again when users
are dropped (the filters are not iterated to a k-core).
"""

from __future__ import annotations

from functools import partial
from typing import Callable

from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings


class Filters(Settings):
    min_value: float | None = None  # events with a lower value are dropped
    min_item_events: int = Field(0, ge=0)
    min_user_events: int = Field(0, ge=0)


def apply(
    events: DataFrame, filters: Filters, until: int | None = None
) -> tuple[DataFrame, dict[str, int]]:
    """The events that are kept, and {filter: number of events it dropped}.

    When a filter is on, one job counts for all filters and persists the kept events on disk,
    because they cost shuffles and several jobs read them: unpersist them after use.
    """
    on = _passes(filters, until)
    if not on:
        return events, {}
    counts = [Observation() for _ in range(len(on) + 1)]
    kept = events.observe(counts[0], _rows())
    for keep, count in zip(on.values(), counts[1:], strict=True):
        kept = keep(kept).observe(count, _rows())
    kept = kept.persist(StorageLevel.DISK_ONLY)
    kept.count()
    left = [int(count.get["rows"]) for count in counts]
    return kept, {
        name: before - after for name, before, after in zip(on, left, left[1:], strict=False)
    }


def _passes(filters: Filters, until: int | None) -> dict[str, Callable[[DataFrame], DataFrame]]:
    """{name of a filter that is on: function that keeps its events}, in order."""
    on: dict[str, Callable[[DataFrame], DataFrame]] = {}
    if until is not None:  # first, so that nothing later is counted
        on["later"] = partial(_where, F.col(c.TS) < until)
    if filters.min_value is not None:
        on["min_value"] = partial(_where, F.col(c.VALUE) >= filters.min_value)
    if filters.min_item_events > 1:
        on["min_item_events"] = partial(_frequent, c.ITEM_ID, filters.min_item_events)
    if filters.min_user_events > 1:
        on["min_user_events"] = partial(_frequent, c.USER_ID, filters.min_user_events)
    return on


def _where(condition: Column, events: DataFrame) -> DataFrame:
    return events.where(condition)


def _frequent(column: str, least: int, events: DataFrame) -> DataFrame:
    """Events whose value of `column` occurs in at least `least` events."""
    counted = events.withColumn("_events", F.count("*").over(Window.partitionBy(column)))
    return counted.where(F.col("_events") >= least).drop("_events")


def _rows() -> Column:
    return F.count(F.lit(1)).alias("rows")

"""A run of events of one history to predict, each from those before it: query_idx, first, last.

Row b predicts the events at places first .. last - 1 of its query's history (from 0, oldest first),
so that every event but a history's first is a target of exactly one row. Rows are counted from the
end of a history: the last ones are whole. The histories are written once, side file `history`; a
row has no item. Values of the side file: 1 where an event is later than the one before it, 0 where
both have the same time; only the former are targets. With `ages` there is a second side file whose
values are the days from an event to the last event of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column
from recsys_spark.etl import queries
from recsys_spark.etl.layout import By, Label, Layout, Rows
from recsys_spark.etl.shards.side import Side


@dataclass(frozen=True)
class Windows(Layout):
    label: Label = "value"
    by: By = "user"
    row_targets: int = 200  # events that a row predicts, at most
    ages: bool = False  # whether models are told how long ago each event was
    whole_histories = True
    row_group_rows = 4096
    row_bytes = 8.0
    entry_bytes = 8.0  # of the side file: an item and a flag

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name=name, dtype="int32") for name in (c.QUERY_IDX, c.FIRST, c.LAST))

    @property
    def statistics(self) -> dict[str, float]:
        return {c.ROW_TARGETS: float(self.row_targets)}

    def rows(self, events: DataFrame, part: str) -> Rows:
        """A history of one event has no row: there is nothing before it."""
        by_query = events.where(F.col(c.PART) == part).groupBy(c.QUERY_IDX)
        lengths = by_query.agg(F.count("*").alias("length")).where("length > 1")
        runs = F.sequence(F.lit(0), F.expr(f"(length - 2) div {self.row_targets}"))
        last = F.col("length") - F.col("run") * self.row_targets
        rows = lengths.withColumn("run", F.explode(runs)).select(
            c.QUERY_IDX,
            F.greatest(last - self.row_targets, F.lit(1)).cast("int").alias(c.FIRST),
            last.cast("int").alias(c.LAST),
        )
        identity = (c.QUERY_IDX, c.FIRST)
        return Rows(rows, rows.select(*identity), identity)

    def sides(self, events: DataFrame) -> dict[str, Side]:
        known = events.where(F.col(c.PART).isin(*c.BEFORE[c.VALID]))
        newest = queries.newest_first(c.QUERY_IDX)
        later = F.col(c.TS) > F.lead(c.TS).over(newest)
        history = known.select(
            c.QUERY_IDX,
            c.ITEM_IDX,
            (-F.row_number().over(newest)).alias(c.PLACE),
            F.coalesce(later, F.lit(True)).cast("float").alias("later"),
        )
        sides = {c.HISTORY: Side(history, by=c.PLACE, values="later")}
        if self.ages:
            last = known.agg(F.max(c.TS).alias("last"))
            days = (F.col("last") - F.col(c.TS)) / 86_400
            aged = known.join(F.broadcast(last)).select(
                c.QUERY_IDX,
                c.ITEM_IDX,
                (-F.row_number().over(newest)).alias(c.PLACE),
                days.cast("float").alias("age"),
            )
            sides[c.AGES] = Side(aged, by=c.PLACE, values="age")
        return sides

    def estimate(
        self, prepared: Mapping[str, Any], parts: Sequence[str], train: int, valid: int
    ) -> tuple[int, int]:
        return int(prepared["users"]) + train // self.row_targets, train

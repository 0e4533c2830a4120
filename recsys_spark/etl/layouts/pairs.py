"""One row per pair of user and item with an event, however many events: query_idx, item_idx. No
label.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column
from recsys_spark.etl.layout import By, Label, Layout, Rows


@dataclass(frozen=True)
class Pairs(Layout):
    label: Label = "value"
    by: By = "user"
    row_group_rows = 16384
    row_bytes = 8.1

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(name=c.QUERY_IDX, dtype="int32"), Column(name=c.ITEM_IDX, dtype="int32"))

    def rows(self, events: DataFrame, part: str) -> Rows:
        rows = events.where(F.col(c.PART) == part).select(c.QUERY_IDX, c.ITEM_IDX).distinct()
        return Rows(rows, rows, (c.QUERY_IDX, c.ITEM_IDX))

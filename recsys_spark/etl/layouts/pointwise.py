"""One row per event: query_idx, item_idx, label, and the event fields that are configured
(etl/shards/features.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column
from recsys_spark.etl.layout import By, Label, Layout, Rows, labelled


@dataclass(frozen=True)
class Pointwise(Layout):
    label: Label = "value"
    by: By = "user"
    statistics_of = c.LABEL
    row_group_rows = 16384
    row_bytes = 8.5
    event_fields = True

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(name=c.QUERY_IDX, dtype="int32"),
            Column(name=c.ITEM_IDX, dtype="int32"),
            Column(name=c.LABEL, dtype="float32"),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return (c.TRAIN, c.VALID)

    def rows(self, events: DataFrame, part: str) -> Rows:
        events = events.where(F.col(c.PART) == part)
        fields = [name for name in events.columns if name.startswith(c.EVENT)]
        label = labelled(self.label).alias(c.LABEL)
        rows = events.select(c.QUERY_IDX, c.ITEM_IDX, label, c.TS, *fields)
        identity = (c.QUERY_IDX, c.ITEM_IDX, c.TS)
        return Rows(rows, events.select(*identity), identity)

"""Users' events in time order, user after user in LANES lanes; short lanes end in padding."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column
from recsys_spark.etl.layout import By, Label, Layout, Rows, labelled
from recsys_spark.etl.queries import oldest_first

LANES = 8


@dataclass(frozen=True)
class Lanes(Layout):
    label: Label = "value"
    by: By = "user"
    statistics_of = c.LABEL
    row_group_rows = 1024
    row_bytes = 12.0

    @property
    def num_lanes(self) -> int:
        return LANES

    @property
    def columns(self) -> tuple[Column, ...]:
        numbers = {c.QUERY_IDX: "int32", c.ITEM_IDX: "int32", "lane": "int32", "first": "int32"}
        floats = {c.LABEL: "float32", c.WEIGHT: "float32"}
        return tuple(Column(name=n, dtype=t) for n, t in {**numbers, **floats}.items())

    def rows(self, events: DataFrame, part: str) -> Rows:
        events = events.where(F.col(c.PART) == part)
        lane = F.pmod(F.col(c.QUERY_IDX), F.lit(LANES)).cast("int")
        of_lane = Window.partitionBy("lane").orderBy(c.QUERY_IDX, oldest_first())
        of_user = Window.partitionBy(c.QUERY_IDX).orderBy(oldest_first())
        placed = events.select(
            "*",
            lane.alias("lane"),
            labelled(self.label).alias(c.LABEL),
            (F.row_number().over(of_user) == 1).cast("int").alias("first"),
        ).withColumn("place", F.row_number().over(of_lane) - 1)
        lanes = events.sparkSession.range(LANES).select(F.col("id").cast("int").alias("lane"))
        places = placed.agg(F.max("place").alias("last"))
        cells = lanes.crossJoin(places).select(
            "lane", F.explode(F.sequence(F.lit(0), "last")).alias("place")
        )
        columns = [c.QUERY_IDX, c.ITEM_IDX, "first", c.LABEL]
        rows = cells.join(placed, on=["lane", "place"], how="left").select(
            "lane",
            "place",
            *(
                F.coalesce(name, F.lit(0)).cast(placed.schema[name].dataType).alias(name)
                for name in columns
            ),
            F.col(c.QUERY_IDX).isNotNull().cast("float").alias(c.WEIGHT),
        )
        return Rows(rows, rows, ("place", "lane"), lane="lane", place="place")

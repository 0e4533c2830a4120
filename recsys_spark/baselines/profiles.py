"""A user's fitted events as weighted items: what a content model takes the user to like.

A pair of user and item counts once, by its latest event. Its weight is that of how recent it is, times that of how much it was liked.
"""

from __future__ import annotations

from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.artifact import ROWS, WEIGHTS
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

RECENCY = "recency"
COLUMNS = (c.USER_IDX, ROWS, RECENCY, WEIGHTS)
LEAST = 2.0**-20  # events that are less recent than this are left out: they change nothing that float32 could show


class Config(Settings):
    """Both 0: every item of a history weighs 1, which needs no profile: the scorer knows the history."""

    half_life_events: float = Field(0.0, ge=0)  # an event weighs half after as many later events of the user; 0: all alike
    liking: float = Field(0.0, ge=0)  # an event weighs 1 + this * (its value - the user's mean value), also below 0

    @property
    def weighted(self) -> bool:
        return self.half_life_events > 0 or self.liking > 0


def build(events: DataFrame, config: Config) -> DataFrame:
    """(user_idx, rows array<int>, recency array<float>, weights array<float>): a user's items, the latest last; weights include recency.

    Events of one second are in the order of a hash that favours no item. A user's history fits an executor's memory.
    """
    latest = events.groupBy(c.USER_IDX, c.ITEM_IDX).agg(F.max(F.struct(c.TS, c.VALUE)).alias("latest"))
    entry = F.struct(F.col("latest").getField(c.TS), F.xxhash64(c.USER_IDX, c.ITEM_IDX).alias("order"), F.col(c.ITEM_IDX),
                     F.col("latest").getField(c.VALUE).alias(c.VALUE))
    lists = latest.groupBy(c.USER_IDX).agg(F.sort_array(F.collect_list(entry)).alias("list"))
    total = F.aggregate("list", F.lit(0.0), lambda so_far, event: so_far + event.getField(c.VALUE))
    means = lists.withColumn("mean", total / F.size("list"))
    later = F.size("list") - 1
    pairs = means.withColumn("pairs", F.transform("list", lambda event, place: F.struct(
        event.getField(c.ITEM_IDX).alias("row"),
        (F.pow(F.lit(0.5), (later - place) / config.half_life_events) if config.half_life_events else F.lit(1.0)).alias(RECENCY),
        (1 + config.liking * (event.getField(c.VALUE) - F.col("mean"))).alias("liking"))))
    kept = pairs.select(c.USER_IDX, F.filter("pairs", lambda pair: pair.getField(RECENCY) >= LEAST).alias("pairs"))
    weight = F.transform("pairs", lambda pair: (pair.getField(RECENCY) * pair.getField("liking")).cast("float"))
    recency = F.transform("pairs", lambda pair: pair.getField(RECENCY).cast("float"))
    return kept.select(c.USER_IDX, F.col("pairs").getField("row").alias(ROWS), recency.alias(RECENCY), weight.alias(WEIGHTS))

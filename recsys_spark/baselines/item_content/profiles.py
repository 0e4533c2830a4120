"""User profiles of content models: a user's fitted events as weighted items.

A pair of user and item counts once, by its latest event. Its weight is a weight of recency times a
weight of the value.
"""

from __future__ import annotations

from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting.artifact import ROWS, WEIGHTS
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

RECENCY = "recency"
COLUMNS = (c.QUERY_IDX, ROWS, RECENCY, WEIGHTS)
# Events with a lower recency weight are left out: their effect is below the precision of float32
LEAST = 2.0**-20


class Config(Settings):
    """If both are 0, every item of a history weighs 1 and no profile is written: the scorer has the
    history.
    """

    # Number of later events of the user after which an event weighs half; 0: no decay
    half_life_events: float = Field(0.0, ge=0)
    # An event weighs 1 + this * (its value - the user's mean value), which may be negative
    liking: float = Field(0.0, ge=0)

    @property
    def weighted(self) -> bool:
        return self.half_life_events > 0 or self.liking > 0


def build(events: DataFrame, config: Config) -> DataFrame:
    """(query_idx, rows array<int>, recency array<float>, weights array<float>): a user's items, the
    latest last; weights include recency.

    Events of one second are in the order of a hash, so that no item is favoured. A user's history
    must fit in an executor's memory.
    """
    latest = events.groupBy(c.QUERY_IDX, c.ITEM_IDX).agg(
        F.max(F.struct(c.TS, c.VALUE)).alias("latest")
    )
    entry = F.struct(
        F.col("latest").getField(c.TS),
        F.xxhash64(c.QUERY_IDX, c.ITEM_IDX).alias("order"),
        F.col(c.ITEM_IDX),
        F.col("latest").getField(c.VALUE).alias(c.VALUE),
    )
    lists = latest.groupBy(c.QUERY_IDX).agg(F.sort_array(F.collect_list(entry)).alias("list"))
    total = F.aggregate("list", F.lit(0.0), lambda so_far, event: so_far + event.getField(c.VALUE))
    means = lists.withColumn("mean", total / F.size("list"))
    later = F.size("list") - 1
    pairs = means.withColumn(
        "pairs",
        F.transform(
            "list",
            lambda event, place: F.struct(
                event.getField(c.ITEM_IDX).alias("row"),
                (
                    F.pow(F.lit(0.5), (later - place) / config.half_life_events)
                    if config.half_life_events
                    else F.lit(1.0)
                ).alias(RECENCY),
                (1 + config.liking * (event.getField(c.VALUE) - F.col("mean"))).alias("liking"),
            ),
        ),
    )
    kept = pairs.select(
        c.QUERY_IDX, F.filter("pairs", lambda pair: pair.getField(RECENCY) >= LEAST).alias("pairs")
    )
    weight = F.transform(
        "pairs", lambda pair: (pair.getField(RECENCY) * pair.getField("liking")).cast("float")
    )
    recency = F.transform("pairs", lambda pair: pair.getField(RECENCY).cast("float"))
    return kept.select(
        c.QUERY_IDX,
        F.col("pairs").getField("row").alias(ROWS),
        recency.alias(RECENCY),
        weight.alias(WEIGHTS),
    )

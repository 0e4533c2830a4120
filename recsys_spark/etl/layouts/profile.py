"""A user's events as one sparse vector per row: query_idx, item_idx (sorted), value.

Users without events have no row. Of several events of one user with one item the latest counts.
With values as labels, rows may be items (`by`), and a row of the valid part has all held-out
entries (held_idx, held_value) beside its profile from earlier parts. The profile is empty where
there are no earlier events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column
from recsys_spark.etl.layout import By, Label, Layout, Rows, labelled, latest, sides


@dataclass(frozen=True)
class Profile(Layout):
    label: Label = "value"
    by: By = "user"
    statistics_of = c.VALUE
    row_group_rows = 1024
    row_bytes = 5.0
    entry_bytes = 5.0

    @property
    def held(self) -> bool:
        """Whether rows of valid have held-out entries beside their profile."""
        return self.label == "value"

    @property
    def columns(self) -> tuple[Column, ...]:
        own, other = sides(self.by)
        lists = [(other, "int32"), (c.VALUE, "float32")]
        if self.held:
            lists += [(c.HELD_IDX, "int32"), (c.HELD_VALUE, "float32")]
        return (
            Column(name=own, dtype="int32"),
            *(Column(name=name, dtype=dtype, shape=(-1,)) for name, dtype in lists),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return (c.TRAIN, c.VALID) if self.held else (c.TRAIN,)

    def check(self) -> str:
        return "" if self.held else super().check()

    def rows(self, events: DataFrame, part: str) -> Rows:
        if self.held:
            return _with_held(events, part, self.by)
        events = events.where(F.col(c.PART) == part)
        value = labelled(self.label).alias(c.VALUE)
        # One shuffle: rows partitioned by user already satisfy a grouping by (user, item).
        entries = events.select(c.QUERY_IDX, c.ITEM_IDX, c.TS, c.STEP, c.POSITION, value)
        pairs = latest(entries.repartition(c.QUERY_IDX))
        entry = F.struct(c.ITEM_IDX, c.VALUE)
        users = pairs.groupBy(c.QUERY_IDX).agg(F.sort_array(F.collect_list(entry)).alias("entries"))
        rows = users.select(
            c.QUERY_IDX,
            *(F.col("entries").getField(name).alias(name) for name in (c.ITEM_IDX, c.VALUE)),
        )
        return Rows(rows, events.select(c.QUERY_IDX).distinct(), (c.QUERY_IDX,))

    def estimate(
        self, prepared: Mapping[str, Any], parts: Sequence[str], train: int, valid: int
    ) -> tuple[int, int]:
        rows = int(prepared[f"{self.by}s"]) * len(parts)
        return rows, train * len(parts) + (valid if self.held and c.VALID in parts else 0)


def _with_held(events: DataFrame, part: str, by: By) -> Rows:
    """Rows of the training part have their profile only; rows of valid have the profile from the
    earlier parts and the held-out entries.
    """
    own, other = sides(by)
    before = (c.TRAIN,) if part == c.TRAIN else c.BEFORE[part]
    history = latest(events.where(F.col(c.PART).isin(*before))).drop(c.TS)
    history = history.withColumn("held", F.lit(False))
    held = events.where((F.col(c.PART) == part) & F.lit(part != c.TRAIN))
    entries = history.unionByName(
        held.select(c.QUERY_IDX, c.ITEM_IDX, c.VALUE, F.lit(True).alias("held"))
    )
    entry = F.struct(F.col(other), F.col(c.VALUE).cast("float").alias(c.VALUE))
    lists = entries.groupBy(own).agg(
        F.sort_array(F.collect_list(F.when(~F.col("held"), entry))).alias("known"),
        F.sort_array(F.collect_list(F.when(F.col("held"), entry))).alias("asked"),
    )
    lists = lists if part == c.TRAIN else lists.where(F.size("asked") > 0)
    rows = lists.select(
        own,
        F.col("known").getField(other).alias(other),
        F.col("known").getField(c.VALUE).alias(c.VALUE),
        F.col("asked").getField(other).alias(c.HELD_IDX),
        F.col("asked").getField(c.VALUE).alias(c.HELD_VALUE),
    )
    return Rows(rows, events.where(F.col(c.PART) == part).select(own).distinct(), (own,))


def to_predict(events: DataFrame, to_score: DataFrame, part: str, by: By) -> DataFrame:
    """One row for each user (or item) with events in `to_score`, which are events of `part`: its
    own index, its profile from the earlier parts, and the events to predict as parallel lists (the
    other side's index as held_idx, row_key, query_id, item_id, label).
    """
    own, other = sides(by)
    event = F.struct(
        F.col(other).alias(c.HELD_IDX),
        c.ROW_KEY,
        c.QUERY_ID,
        c.ITEM_ID,
        F.col(c.VALUE).alias(c.LABEL),
    )
    held = to_score.groupBy(own).agg(F.collect_list(event).alias("held"))
    history = latest(events.where(F.col(c.PART).isin(*c.BEFORE[part])))
    entry = F.struct(F.col(other), F.col(c.VALUE).cast("float").alias(c.VALUE))
    profiles = history.groupBy(own).agg(F.sort_array(F.collect_list(entry)).alias("known"))
    none = F.expr(f"cast(array() as array<struct<{other}: int, {c.VALUE}: float>>)")
    joined = held.join(profiles, on=own, how="left").withColumn("known", F.coalesce("known", none))
    return joined.select(
        own,
        *(F.col("known").getField(name).alias(name) for name in (other, c.VALUE)),
        *(
            F.col("held").getField(name).alias(name)
            for name in (c.HELD_IDX, c.ROW_KEY, c.QUERY_ID, c.ITEM_ID, c.LABEL)
        ),
    )

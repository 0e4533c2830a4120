"""What one row of a shard is: split events of one part -> rows of a layout, with what names each row.

pointwise   an event: user_idx, item_idx, label, and its fields where it was given some (etl/features.py).
profile     a user's events as one sparse vector: user_idx, item_idx (sorted), value. Users without events have no row.
            Of several events of one user with one item the latest counts (equal times: the greatest value).
pairs       a user and an item that met, however often: user_idx, item_idx. No label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Literal

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column

Label = Literal["value", "one"]  # what the event says, or that it happened
Name = Literal["pointwise", "profile", "pairs"]


@dataclass(frozen=True)
class Rows:
    """`rows` hold the layout's columns and `identity`; `keys` only the latter, once a row, at less cost."""

    rows: DataFrame
    keys: DataFrame
    identity: tuple[str, ...]  # columns whose values name a row


@dataclass(frozen=True)
class Layout:
    columns: tuple[Column, ...]
    label: str  # the column that statistics are taken of; empty: none
    row_group_rows: int  # at most; about 200 kB
    row_bytes: float  # measured, for estimates: a row without its lists
    entry_bytes: float  # of a list entry
    parts: tuple[str, ...]
    build: Callable[[DataFrame, Label], Rows]


def _pointwise(events: DataFrame, label: Label) -> Rows:
    fields = [name for name in events.columns if name.startswith(c.EVENT)]
    rows = events.select(c.USER_IDX, c.ITEM_IDX, _label(label).alias(c.LABEL), c.TS, *fields)
    identity = (c.USER_IDX, c.ITEM_IDX, c.TS)
    return Rows(rows, events.select(*identity), identity)


def _profile(events: DataFrame, label: Label) -> Rows:
    # One shuffle: grouping by (user, item) is already met by rows that lie together by user.
    latest = (events.select(c.USER_IDX, c.ITEM_IDX, c.TS, _label(label).alias(c.VALUE)).repartition(c.USER_IDX)
              .groupBy(c.USER_IDX, c.ITEM_IDX).agg(F.max(F.struct(c.TS, c.VALUE)).alias("latest")))
    entry = F.struct(c.ITEM_IDX, F.col("latest").getField(c.VALUE).alias(c.VALUE))
    users = latest.groupBy(c.USER_IDX).agg(F.sort_array(F.collect_list(entry)).alias("entries"))
    rows = users.select(c.USER_IDX, F.col("entries").getField(c.ITEM_IDX).alias(c.ITEM_IDX),
                        F.col("entries").getField(c.VALUE).alias(c.VALUE))
    return Rows(rows, events.select(c.USER_IDX).distinct(), (c.USER_IDX,))


def _pairs(events: DataFrame, label: Label) -> Rows:
    rows = events.select(c.USER_IDX, c.ITEM_IDX).distinct()
    return Rows(rows, rows, (c.USER_IDX, c.ITEM_IDX))


def _label(label: Label) -> Expression:
    return (F.lit(1.0) if label == "one" else F.col(c.VALUE)).cast("float")


LAYOUTS: dict[str, Layout] = {
    "pointwise": Layout(
        columns=(Column(name=c.USER_IDX, dtype="int32"), Column(name=c.ITEM_IDX, dtype="int32"), Column(name=c.LABEL, dtype="float32")),
        label=c.LABEL, row_group_rows=16384, row_bytes=8.5, entry_bytes=0.0, parts=(c.TRAIN, c.VALID), build=_pointwise),
    "profile": Layout(
        columns=(Column(name=c.USER_IDX, dtype="int32"), Column(name=c.ITEM_IDX, dtype="int32", shape=(-1,)),
                 Column(name=c.VALUE, dtype="float32", shape=(-1,))),
        label=c.VALUE, row_group_rows=1024, row_bytes=5.0, entry_bytes=5.0, parts=(c.TRAIN,), build=_profile),
    "pairs": Layout(
        columns=(Column(name=c.USER_IDX, dtype="int32"), Column(name=c.ITEM_IDX, dtype="int32")),
        label="", row_group_rows=16384, row_bytes=8.1, entry_bytes=0.0, parts=(c.TRAIN,), build=_pairs),
}

"""What one row of a shard is: split events of one part -> rows of a layout, with what names each row.

pointwise   an event: user_idx, item_idx, label, and its fields where it was given some (etl/features.py).
profile     a user's events as one sparse vector: user_idx, item_idx (sorted), value. Users without events have no row.
            Of several events of one user with one item the latest counts (equal times: the greatest value).
            With values as labels, rows may be items (`by`), and the valid part has the held-out entries of each, all of them, beside
            what is known of it from before: held_idx, held_value. One of whom nothing is known has an empty profile.
pairs       a user and an item that met, however often: user_idx, item_idx. No label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Literal

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column

Label = Literal["value", "one"]  # what the event says, or that it happened
Name = Literal["pointwise", "profile", "pairs"]
By = Literal["user", "item"]


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
    by: By = "user"  # whose vectors the rows of layout `profile` are
    held: bool = False  # the rows of valid have a held-out part beside what was before


def of(name: Name, label: Label, by: By) -> Layout:
    return _ratings(by) if name == "profile" and label == "value" else LAYOUTS[name]


def rows(layout: Layout, events: DataFrame, part: str, label: Label) -> Rows:
    """events: of all parts."""
    return _profiles(events, part, layout.by) if layout.held else layout.build(events.where(F.col(c.PART) == part), label)


def sides(by: By) -> tuple[str, str]:
    """The columns of the rows' own index and of the entries'."""
    return (c.USER_IDX, c.ITEM_IDX) if by == "user" else (c.ITEM_IDX, c.USER_IDX)


def latest(events: DataFrame) -> DataFrame:
    """(user_idx, item_idx, value): one row a pair; its latest value, of equal times the greatest."""
    last = events.groupBy(c.USER_IDX, c.ITEM_IDX).agg(F.max(F.struct(c.TS, c.VALUE)).alias("latest"))
    return last.select(c.USER_IDX, c.ITEM_IDX, F.col("latest").getField(c.VALUE).alias(c.VALUE))


def _pointwise(events: DataFrame, label: Label) -> Rows:
    fields = [name for name in events.columns if name.startswith(c.EVENT)]
    rows = events.select(c.USER_IDX, c.ITEM_IDX, _label(label).alias(c.LABEL), c.TS, *fields)
    identity = (c.USER_IDX, c.ITEM_IDX, c.TS)
    return Rows(rows, events.select(*identity), identity)


def _profile(events: DataFrame, label: Label) -> Rows:
    # One shuffle: grouping by (user, item) is already met by rows that lie together by user.
    pairs = latest(events.select(c.USER_IDX, c.ITEM_IDX, c.TS, _label(label).alias(c.VALUE)).repartition(c.USER_IDX))
    entry = F.struct(c.ITEM_IDX, c.VALUE)
    users = pairs.groupBy(c.USER_IDX).agg(F.sort_array(F.collect_list(entry)).alias("entries"))
    rows = users.select(c.USER_IDX, F.col("entries").getField(c.ITEM_IDX).alias(c.ITEM_IDX),
                        F.col("entries").getField(c.VALUE).alias(c.VALUE))
    return Rows(rows, events.select(c.USER_IDX).distinct(), (c.USER_IDX,))


def _profiles(events: DataFrame, part: str, by: By) -> Rows:
    """In training what a row has is all there is; in valid it has what was before, and what is held."""
    mine, other = sides(by)
    before = (c.TRAIN,) if part == c.TRAIN else c.BEFORE[part]
    known = latest(events.where(F.col(c.PART).isin(*before))).withColumn("held", F.lit(False))
    asked = events.where((F.col(c.PART) == part) & F.lit(part != c.TRAIN))
    both = known.unionByName(asked.select(c.USER_IDX, c.ITEM_IDX, c.VALUE, F.lit(True).alias("held")))
    entry = F.struct(F.col(other), F.col(c.VALUE).cast("float").alias(c.VALUE))
    lists = both.groupBy(mine).agg(F.sort_array(F.collect_list(F.when(~F.col("held"), entry))).alias("known"),
                                   F.sort_array(F.collect_list(F.when(F.col("held"), entry))).alias("asked"))
    lists = lists if part == c.TRAIN else lists.where(F.size("asked") > 0)
    made = lists.select(mine, F.col("known").getField(other).alias(other), F.col("known").getField(c.VALUE).alias(c.VALUE),
                        F.col("asked").getField(other).alias(c.HELD_IDX), F.col("asked").getField(c.VALUE).alias(c.HELD_VALUE))
    return Rows(made, events.where(F.col(c.PART) == part).select(mine).distinct(), (mine,))


def _pairs(events: DataFrame, label: Label) -> Rows:
    rows = events.select(c.USER_IDX, c.ITEM_IDX).distinct()
    return Rows(rows, rows, (c.USER_IDX, c.ITEM_IDX))


def _label(label: Label) -> Expression:
    return (F.lit(1.0) if label == "one" else F.col(c.VALUE)).cast("float")


def _ratings(by: By) -> Layout:
    mine, other = sides(by)
    lists = ((other, "int32"), (c.VALUE, "float32"), (c.HELD_IDX, "int32"), (c.HELD_VALUE, "float32"))
    columns = (Column(name=mine, dtype="int32"), *(Column(name=name, dtype=dtype, shape=(-1,)) for name, dtype in lists))
    return replace(LAYOUTS["profile"], columns=columns, parts=(c.TRAIN, c.VALID), by=by, held=True)


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

"""Interface of a layout on the Spark side: split events of one part -> rows of a shard set.

Each file of `etl/layouts/` holds one, with the name of its torch half in `batches/layouts/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import plugins
from recsys_spark.core.contracts import Column
from recsys_spark.etl import queries
from recsys_spark.etl.shards.side import Side

Label = Literal["value", "one"]  # the value of the event, or 1 for every event
By = Literal["user", "item"]
_PACKAGE = "recsys_spark.etl.layouts"


@dataclass(frozen=True)
class Rows:
    """`rows` has the layout's columns and `identity`; `keys` has only `identity`, once per row, and
    is cheaper to compute.

    lane: the column with a row's lane, where rows stay in order: they are assigned to shards by
        lane, in the order of column `place` (the same places in every lane).
    """

    rows: DataFrame
    keys: DataFrame
    identity: tuple[str, ...]  # columns whose values identify a row
    lane: str = ""
    place: str = ""


class Layout:
    """Base of the layouts: a frozen data class, one instance per export.

    A subclass sets the class variables below and implements the methods.
    """

    label: Label
    by: By
    statistics_of: ClassVar[str] = ""  # the column whose statistics are computed; empty: none
    row_group_rows: ClassVar[int]  # maximum; about 200 kB
    row_bytes: ClassVar[float]  # measured, for estimates: bytes of a row without its lists
    entry_bytes: ClassVar[float] = 0.0  # bytes of a list entry
    event_fields: ClassVar[bool] = False  # whether its rows have the fields of one event
    # Whether rows point into histories of every event, so that none may be left out
    whole_histories: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[Column, ...]:
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the split that become rows."""
        return (c.TRAIN,)

    @property
    def statistics(self) -> dict[str, float]:
        """Facts about the rows that a model may need, beside those of labels."""
        return {}

    @property
    def num_lanes(self) -> int:
        """Lanes whose rows stay in order; 0: rows are shuffled."""
        return 0

    def check(self) -> str:
        """The reason why the settings allow no export; empty if they do."""
        return "" if self.by == "user" else "by: item is for layout profile with label value"

    def rows(self, events: DataFrame, part: str) -> Rows:
        """Rows of one part. events: events of all parts."""
        raise NotImplementedError

    def sides(self, events: DataFrame) -> dict[str, Side]:
        """Side lists by user, other than seen items and targets.

        events: events of all parts.
        """
        return {}

    def estimate(
        self, prepared: Mapping[str, Any], parts: Sequence[str], train: int, valid: int
    ) -> tuple[int, int]:
        """(rows, list entries) of an export of these parts, with so many events in its training and
        its valid part.
        """
        return train + (valid if c.VALID in parts else 0), 0


def names() -> list[str]:
    return plugins.names(_PACKAGE)


def find(name: str) -> type[Layout]:
    """The layout class in the file of this name."""
    return plugins.only_class(_PACKAGE, name, Layout)


def of(
    name: str,
    label: Label,
    by: By = "user",
    row_targets: int | None = None,
    ages: bool = False,
) -> Layout:
    """row_targets, ages: for a layout that has these settings; None, false: its own."""
    own = ({c.ROW_TARGETS: row_targets} if row_targets else {}) | ({c.AGES: True} if ages else {})
    return find(name)(label=label, by=by, **own)  # type: ignore[call-arg]


def sides(by: By) -> tuple[str, str]:
    """(index column of the rows, index column of their entries)."""
    return (c.QUERY_IDX, c.ITEM_IDX) if by == "user" else (c.ITEM_IDX, c.QUERY_IDX)


def latest(events: DataFrame) -> DataFrame:
    """(query_idx, item_idx, ts, value): one row per pair, its latest event in the order of
    `queries.oldest_first`.
    """
    last = events.groupBy(c.QUERY_IDX, c.ITEM_IDX).agg(
        F.max(queries.oldest_first(of_item=True)).alias("latest")
    )
    return last.select(
        c.QUERY_IDX, c.ITEM_IDX, *(F.col("latest").getField(n).alias(n) for n in (c.TS, c.VALUE))
    )


def labelled(label: Label) -> Expression:
    return (F.lit(1.0) if label == "one" else F.col(c.VALUE)).cast("float")

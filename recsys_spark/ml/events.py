"""A user's DataFrame -> events with the names and types of the lake, and ids back in their own
type.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as t

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError, nearest
from recsys_spark.ml.params import RecommenderParams

_WHOLE = (t.ByteType, t.ShortType, t.IntegerType, t.LongType)
_IDS = (*_WHOLE, t.StringType)
_TIMES = (*_WHOLE, t.TimestampType)


@dataclass(frozen=True)
class Columns:
    """Names of a DataFrame's columns; empty: there is none."""

    user: str
    item: str
    rating: str = ""
    timestamp: str = ""

    @classmethod
    def of(cls, params: RecommenderParams) -> Columns:
        return cls(
            params.getUserCol(),
            params.getItemCol(),
            params.getRatingCol(),
            params.getTimestampCol(),
        )

    def require(self, schema: t.StructType) -> None:
        """Raises DataError for a column that is missing or of a wrong type."""
        self.require_ids(schema, "userCol", "itemCol")
        if self.rating:
            _require(schema, "ratingCol", self.rating, (t.NumericType,), "a number")
        if self.timestamp:
            _require(
                schema, "timestampCol", self.timestamp, _TIMES, "a timestamp, or whole seconds"
            )

    def require_ids(self, schema: t.StructType, *params: str) -> None:
        names = {"userCol": self.user, "itemCol": self.item}
        for param in params:
            _require(schema, param, names[param], _IDS, "an int, a long or a string")

    def events(self, frame: DataFrame) -> DataFrame:
        """(user_id string, item_id string, ts long, value double). Without times ts is 0."""
        return frame.select(
            named(self.user).cast("string").alias(c.USER_ID),
            named(self.item).cast("string").alias(c.ITEM_ID),
            self.seconds().alias(c.TS),
            (named(self.rating).cast("double") if self.rating else F.lit(1.0)).alias(c.VALUE),
        )

    def seconds(self) -> Column:
        return named(self.timestamp).cast("long") if self.timestamp else F.lit(0).cast("long")


def named(name: str) -> Column:
    """The column of this name, whatever characters it has."""
    return F.col(f"`{name.replace('`', '``')}`")


def placed(events: DataFrame) -> DataFrame:
    """With a number for each of several events of one user, item and second, which the lake tells
    apart by it.
    """
    same = Window.partitionBy(c.USER_ID, c.ITEM_ID, c.TS).orderBy(c.VALUE)
    return events.withColumn(c.STEP, F.row_number().over(same))


def fingerprint(events: DataFrame) -> str:
    """Of the rows, in whatever order: equal rows need no second copy and no second training."""
    row = F.xxhash64(*events.columns).cast("decimal(38,0)")
    count, total = events.agg(F.count(F.lit(1)), F.sum(row)).collect()[0]
    return artifacts.fingerprint([count, str(total)])


def id_type(schema: t.StructType, name: str) -> str:
    return schema[name].dataType.simpleString()


def _require(
    schema: t.StructType, param: str, name: str, kinds: tuple[type, ...], expected: str
) -> None:
    names = schema.fieldNames()
    if name not in names:
        raise DataError(
            f"column {name!r} ({param})",
            found=f"columns {', '.join(names)}",
            expected=f"a column of that name{nearest(name, names)}",
            remedy=f"set {param}",
        )
    kind = schema[name].dataType
    if not isinstance(kind, kinds):
        raise DataError(
            f"column {name!r} ({param})",
            found=kind.simpleString(),
            expected=expected,
            remedy="cast it, or name another column",
        )

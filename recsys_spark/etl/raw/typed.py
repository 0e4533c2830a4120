"""Values of any of Spark's types -> the text, number or time that a table of the lake has."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as t

from recsys_spark.datasets.files.spec import PER_SECOND, Unit

NO_UNIT, NO_ZONE = "time_without_unit", "time_without_zone"
OTHER_UNIT = "time_in_another_unit"
# Seconds of the year 5138. As milliseconds the number is a day of 1973, and all later ones are
# larger.
LAST_S = 10**11
# Whole numbers up to here are exact in the type
_EXACT: dict[type[t.DataType], int] = {t.FloatType: 2**24, t.DoubleType: 2**53}

_DAY = r"^\s*\d{4}-\d{2}-\d{2}"
_CLOCK = _DAY + r"[T ]\d{1,2}:\d{2}"
_ZONED = _CLOCK + r"[0-9:.,]*\s*[A-Za-z+-]"


@dataclass(frozen=True)
class Typed:
    """A column and its type, of which the methods make what the lake's tables hold; null where a
    value cannot be used.
    """

    column: Column
    kind: t.DataType

    def blank(self) -> Column:
        empty = self.column.isNull()
        return empty | (F.trim(self.column) == "") if self._is_text else empty

    def id(self, *, trimmed: bool) -> Column:
        """Text without loss: 12 for the numbers 12 and 12.0, null for 12.5 and for a number so
        large that its type has rounded it.
        """
        if self._is_text:
            return F.trim(self.column) if trimmed else self.column
        if isinstance(self.kind, t.DecimalType):
            text = F.regexp_replace(self.column.cast("string"), r"\.0+$", "")
            return F.when(text.rlike(r"^-?\d+$"), text)
        if type(self.kind) in _EXACT:
            return self._whole().cast("string")
        return self.column.cast("string")

    def number(self) -> Column:
        return self.column.try_cast("double")

    def text(self) -> Column:
        """Text for a field: arrays joined by `|`, structures as JSON, times in seconds since 1970;
        null for empty text.
        """
        text = self.column.cast("string")
        if isinstance(self.kind, t.ArrayType):
            element = self.kind.elementType
            joined = F.transform(self.column, lambda value: Typed(value, element).text())
            text = F.array_join(joined, "|")
        elif isinstance(self.kind, t.MapType | t.StructType):
            text = F.to_json(self.column)
        elif isinstance(self.kind, t.TimestampType | t.TimestampNTZType | t.DateType):
            text = self.seconds(None, "UTC")[0].cast("string")
        elif type(self.kind) in _EXACT:
            text = F.coalesce(self._whole().cast("string"), text)
        return F.nullif(F.trim(text), F.lit(""))

    def seconds(
        self, unit: Unit | None, zone: str | None
    ) -> tuple[Column, list[tuple[Column, str]]]:
        """(seconds since 1970, conditions under which they are not to be had, with reasons)."""
        if isinstance(self.kind, t.TimestampType):
            return F.unix_seconds(self.column), []
        if isinstance(self.kind, t.DateType):
            return _at(self.column.cast("timestamp"), zone), []
        if isinstance(self.kind, t.TimestampNTZType):
            ts = _at(self.column.cast("timestamp"), zone)
            return ts, [] if zone else [(self.column.isNotNull(), NO_ZONE)]
        if self._is_text:
            return self._of_text(unit, zone)
        ts = _since_1970(self.column, self.kind, unit or "s")
        return ts, [(ts > LAST_S, OTHER_UNIT)]

    @property
    def _is_text(self) -> bool:
        return isinstance(self.kind, t.StringType | t.NullType)

    def _whole(self) -> Column:
        largest = _EXACT[type(self.kind)]
        exact = (F.abs(self.column) <= largest) & (self.column == F.floor(self.column))
        return F.when(exact, self.column.cast("bigint"))

    def _of_text(
        self, unit: Unit | None, zone: str | None
    ) -> tuple[Column, list[tuple[Column, str]]]:
        number = self.column.try_cast("bigint")
        since = _since_1970(number, t.LongType(), unit or "s")
        # Spark reads the offset +02:00, not +0200
        day = F.regexp_replace(F.trim(self.column), r"(:\d{2}\S*[+-]\d{2})(\d{2})$", "$1:$2")
        time = F.when(self.column.rlike(_DAY), day.try_cast("timestamp"))
        zoned = self.column.rlike(_ZONED)
        ts = F.coalesce(since, F.when(zoned, F.unix_seconds(time)).otherwise(_at(time, zone)))
        wrong = [(since > LAST_S, OTHER_UNIT)]
        if unit is None:
            wrong.insert(0, (number.isNotNull(), NO_UNIT))
        if zone is None:
            clock = number.isNull() & self.column.rlike(_CLOCK)
            wrong.append((clock & time.isNotNull() & ~zoned, NO_ZONE))
        return ts, wrong


def typed(rows: DataFrame, sql: str) -> Typed:
    """The value of an expression over the columns of `rows`."""
    column = F.expr(sql)
    return Typed(column, rows.select(column.alias("value")).schema[0].dataType)


def _at(clock: Column, zone: str | None) -> Column:
    """Seconds since 1970 of what a clock in `zone` (None: UTC) shows. clock: read as if in UTC."""
    return F.unix_seconds(F.to_utc_timestamp(clock, zone) if zone else clock)


def _since_1970(number: Column, kind: t.DataType, unit: Unit) -> Column:
    """Whole seconds, downwards, of a number of units."""
    per = PER_SECOND[unit]
    if not isinstance(kind, t.IntegralType):
        return F.when(~F.isnan(number.cast("double")), F.floor(number / per)).try_cast("bigint")
    number = number.cast("bigint")
    if per == 1:
        return number
    return F.call_function("div", number - F.pmod(number, F.lit(per)), F.lit(per))

"""Times that are written otherwise than ISO 8601: how, and the SQL that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

LOOKED_AT = 1_000  # values


@dataclass(frozen=True)
class Written:
    """A way to write times. sql: reads a column of the name NAME in it as what a clock shows, or as
    an instant where it names a zone; null for other text. strptime: the same in Python.
    """

    words: str
    strptime: str
    pattern: str  # Spark's
    zoned: bool = False
    skipped: int = 0  # characters in front, such as the name of a day, which Spark does not read

    def sql(self, name: str) -> str:
        """
        >>> WAYS[0].sql("at")
        "CAST(try_to_timestamp(`at`, 'M/d/yyyy h:mm:ss a') AS TIMESTAMP_NTZ)"
        """
        column = f"`{name.replace('`', '``')}`"
        text = f"substr({column}, {self.skipped + 1})" if self.skipped else column
        if self.pattern == "yyyyMMdd":
            text = f"CAST({text} AS STRING)"
        time = f"try_to_timestamp({text}, '{self.pattern}')"
        return time if self.zoned else f"CAST({time} AS TIMESTAMP_NTZ)"


# Month first before day first: where both fit, the first is a guess
WAYS = (
    Written("month/day/year", "%m/%d/%Y %I:%M:%S %p", "M/d/yyyy h:mm:ss a"),
    Written("day/month/year", "%d/%m/%Y %I:%M:%S %p", "d/M/yyyy h:mm:ss a"),
    Written("month/day/year", "%m/%d/%Y %H:%M:%S", "M/d/yyyy H:mm:ss"),
    Written("day/month/year", "%d/%m/%Y %H:%M:%S", "d/M/yyyy H:mm:ss"),
    Written("month/day/year", "%m/%d/%Y %H:%M", "M/d/yyyy H:mm"),
    Written("day/month/year", "%d/%m/%Y %H:%M", "d/M/yyyy H:mm"),
    Written("month/day/year", "%m/%d/%Y", "M/d/yyyy"),
    Written("day/month/year", "%d/%m/%Y", "d/M/yyyy"),
    Written("day.month.year", "%d.%m.%Y %H:%M:%S", "d.M.yyyy H:mm:ss"),
    Written("day.month.year", "%d.%m.%Y %H:%M", "d.M.yyyy H:mm"),
    Written("day.month.year", "%d.%m.%Y", "d.M.yyyy"),
    Written("year/month/day", "%Y/%m/%d %H:%M:%S", "yyyy/M/d H:mm:ss"),
    Written("year/month/day", "%Y/%m/%d", "yyyy/M/d"),
    Written("month day, year", "%m %d, %Y", "M d, yyyy"),
    Written("year, month and day in eight digits", "%Y%m%d", "yyyyMMdd"),
    Written(
        "weekday month day time zone year",
        "%a %b %d %H:%M:%S %z %Y",
        "MMM d HH:mm:ss Z yyyy",
        zoned=True,
        skipped=4,
    ),
)


def way(values: pd.Series[str]) -> Written | None:
    """How the values are written: of the ways that fit the first of them the one that fits most;
    None where none fits. values: not null.
    """
    head = values.head(LOOKED_AT)
    ways = [written for written in WAYS if _fits(head, written)]
    return max(ways, key=lambda written: seconds(values, written).count(), default=None)


def is_either(values: pd.Series[str], written: Written) -> bool:
    """Whether day and month may change places in all values."""
    if not written.strptime.startswith("%m/%d"):
        return False
    other = written.strptime.replace("%m/%d", "%d/%m")
    return bool(pd.to_datetime(values, format=other, errors="coerce").notna().all())


def _fits(values: pd.Series[str], written: Written) -> bool:
    if written.strptime == "%Y%m%d" and not values.str.fullmatch(r"(19|20)\d{6}").all():
        return False  # fewer digits would be read too
    return bool(seconds(values, written).notna().all())


def seconds(values: pd.Series[str], written: Written) -> pd.Series[int]:
    """Since 1970, as if in UTC where no zone is named; missing for other text."""
    times = pd.to_datetime(values, format=written.strptime, utc=True, errors="coerce")
    return (times.astype("datetime64[s, UTC]").astype("int64")).where(times.notna())

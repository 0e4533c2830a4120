"""What a sample of rows says of each column: type, how many values, how they look."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from recsys_spark.datasets.drafts import times
from recsys_spark.datasets.drafts.times import Written

# Seconds since 1970 between 1990 and 2100; the same in the other units
_EPOCH = (631_152_000, 4_102_444_800)
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)? ?(Z|[+-]\d{2}:?\d{2})?")
EXAMPLES = 3
LONGEST = 24  # characters of an example
_PARTS = re.compile(r"[\s,;|]+")
MANY = 4  # parts of a text, from which on it is a list or a sentence


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    type: as the source gives it. distinct: different values among those that are not null. low,
    high: of numbers. time: how it can be a time: "" (it cannot), `timestamp`, `date`, `text` (ISO
    8601), `written` (in the way of `written`) or a unit of UNITS (a number since 1970). whole:
    every number is an integer. zoned: texts and timestamps that name an instant. many: values with
    several parts, as lists and sentences have. either: day and month may change places.
    """

    name: str
    type: str
    rows: int
    nulls: int
    distinct: int
    examples: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    time: str = ""
    whole: bool = False
    zoned: bool = False
    many: bool = False
    written: Written | None = None
    either: bool = False

    @property
    def looks(self) -> str:
        """The type, and of text what it holds."""
        if self.type != "string":
            return self.type
        if self.time in UNITS:
            return f"string: times in {self.time}"
        if self.time:
            return "string: times"
        return "string: numbers" if self.numeric else "string: lists" if self.many else "string"

    @property
    def numeric(self) -> bool:
        return self.low is not None

    @property
    def repeats(self) -> bool:
        """Whether values come again, as ids of users and items do."""
        return 1 < self.distinct < self.rows - self.nulls


def described(sample: pd.DataFrame, types: dict[str, str]) -> list[Column]:
    """types: of each column, in the words of the source. Nested columns have no distinct values.

    >>> frame = pd.DataFrame({"user": ["a", "a", None], "at": [1767225600, 1767225601, 1767225602]})
    >>> user, at = described(frame, {"user": "string", "at": "bigint"})
    >>> user.nulls, user.distinct, user.repeats, at.time, at.numeric
    (1, 1, False, 's', True)
    """
    return [_column(name, sample[name], kind) for name, kind in types.items()]


def texts(values: pd.Series[Any]) -> pd.Series[str]:
    """Values as text; whole numbers as such, also where the column has nulls beside them.

    >>> texts(pd.Series([12.0, 13.0])).tolist()
    ['12', '13']
    """
    if pd.api.types.is_float_dtype(values) and (values % 1 == 0).all():
        values = values.astype("int64")  # columns with nulls come as float
    return values.astype(str)


def _column(name: str, values: pd.Series[Any], kind: str) -> Column:
    present = values.dropna()
    nested = kind.startswith(("array", "map", "struct", "binary"))
    heads = (text[:LONGEST] for text in texts(present.head(200)))
    column = Column(
        name,
        kind,
        rows=len(values),
        nulls=int(values.isna().sum()),
        distinct=0 if nested else int(present.nunique()),
        examples=tuple(dict.fromkeys(heads))[:EXAMPLES],
        many=kind.startswith("array"),
    )
    if nested or not len(present) or kind == "boolean":
        return column
    if kind.startswith(("timestamp", "date")):
        time = "date" if kind == "date" else "timestamp"
        return replace(column, time=time, zoned=kind == "timestamp")
    numbers = pd.to_numeric(present, errors="coerce")
    if numbers.isna().any():
        return _of_text(column, texts(present))
    low, high = float(numbers.min()), float(numbers.max())
    whole = bool((numbers % 1 == 0).all())
    column = replace(column, low=low, high=high, whole=whole)
    unit = _unit(low, high) if whole or kind != "string" else ""
    if whole and not unit and (way := times.way(texts(present))) is not None:
        return replace(column, time="written", written=way)
    return replace(column, time=unit)


def _of_text(column: Column, values: pd.Series[str]) -> Column:
    head = values.head(times.LOOKED_AT)
    if head.map(lambda text: _ISO.fullmatch(text) is not None).all():
        zoned = bool(head.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$").all())
        return replace(column, time="text", zoned=zoned)
    if (way := times.way(values)) is not None:
        either = times.is_either(values, way)
        return replace(column, time="written", zoned=way.zoned, written=way, either=either)
    parts = head.map(lambda text: len(_PARTS.split(text.strip())))
    return replace(column, many=bool(parts.median() >= MANY))


def _unit(low: float, high: float) -> str:
    """The unit in which all numbers lie between 1990 and 2100; empty where there is none."""
    first, last = _EPOCH
    return next(
        (unit for unit, size in UNITS.items() if first * size <= low and high <= last * size), ""
    )

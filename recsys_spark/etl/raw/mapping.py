"""Whether the expressions of a mapping fit the columns of their source: asked before any row is
read.
"""

from __future__ import annotations

import re

from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.sql import types as t

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, first_line, nearest
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.scan import Scan, inner

_TEXT = (t.StringType, t.NullType)
_NUMBERS = (t.NumericType,)
_TIMES = (t.TimestampType, t.TimestampNTZType, t.DateType)
# {column: types that it may have, in words and as classes}
_TYPES: dict[str, tuple[str, tuple[type[t.DataType], ...]]] = {
    **dict.fromkeys((c.USER_ID, c.ITEM_ID), ("text or a number", (*_TEXT, *_NUMBERS))),
    c.TS: ("a timestamp, a date, text or a number", (*_TEXT, *_NUMBERS, *_TIMES)),
    c.VALUE: ("a number", (*_TEXT, *_NUMBERS, t.BooleanType)),
    c.POSITION: ("a whole number", (*_TEXT, *_NUMBERS)),
    c.STEP: ("a whole number", (*_TEXT, *_NUMBERS)),
}
_PLAIN = (*_TEXT, *_NUMBERS, *_TIMES, t.BooleanType)


def require_fits(scan: Scan) -> dict[str, str]:
    """{column: type of its expression}. Raises ConfigError for an expression that Spark cannot
    read, that names a column which the source lacks, or that gives a type of which no value can be
    made.
    """
    file = scan.file
    kinds: dict[str, str] = {}
    for kept, expressions in ((False, file.mapped), (True, file.fields)):
        for name, sql in expressions.items():
            where = f"source.{file.table}.{'keep' if kept else 'columns'}.{name}"
            kind = _type(scan, where, sql)
            _require_type(where, sql, name, kind, kept)
            if name == c.TS and isinstance(kind, t.NumericType) and file.unit is None:
                raise ConfigError(
                    where,
                    found=f"{_shown(sql)} of type {kind.simpleString()}, a number without its unit",
                    expected="unit: s, ms, us or ns, of a number since 1970",
                    remedy=f"set source.{file.table}.unit",
                )
            kinds[name] = kind.simpleString()
    return kinds


def _type(scan: Scan, where: str, sql: str) -> t.DataType:
    try:
        with spelled_out(where):
            # Beside a column of the row and in a structure, so that neither a sum over rows nor
            # several rows of one pass
            value = F.struct(F.expr(sql).alias("value")).alias("given")
            schema = scan.rows.select(inner(c.SOURCE_FILE), value).schema
    except PySparkException as problem:
        names = scan.file.columns
        missing = re.search(r"with name `(.+?)` cannot be resolved", str(problem))
        if missing:
            close = nearest(missing[1].replace("`.`", "."), names)
            raise ConfigError(
                where,
                found=f"{_shown(sql)}, of which the source has no column {missing[1]}",
                expected=f"columns of {scan.file.pattern}: {', '.join(names)}{close}",
                remedy="correct the name; if the source was changed, change the mapping with it",
            ) from None
        raise ConfigError(
            where,
            found=f"{_shown(sql)}: {first_line(problem)}",
            expected="a column of the source, or an SQL expression of one value a row",
            remedy="correct the expression; a name with other characters than letters, digits and "
            "_ stands in backticks inside an expression",
        ) from None
    given = schema["given"].dataType
    assert isinstance(given, t.StructType), "the structure that was asked for"
    return given["value"].dataType


def _require_type(where: str, sql: str, name: str, kind: t.DataType, kept: bool) -> None:
    if kept:
        words, good = "text, a number, a time, an array or a structure", not _is_binary(kind)
    else:
        words, classes = _TYPES.get(name, ("text or a number", _PLAIN))
        good = isinstance(kind, classes)
    if not good:
        remedy = (
            "write an expression, such as hex(x) or CAST(x AS STRING)"
            if _is_binary(kind)
            else "write an expression that gives one"
        )
        raise ConfigError(
            where,
            found=f"{_shown(sql)} of type {kind.simpleString()}",
            expected=words,
            remedy=remedy,
        )


def _is_binary(kind: t.DataType) -> bool:
    return isinstance(kind, t.BinaryType)


def _shown(sql: str) -> str:
    name = re.fullmatch(r"`([^`]+)`", sql)
    text = name[1] if name else sql
    return text if len(text) <= 80 else f"{text[:77]}..."

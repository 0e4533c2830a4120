"""How a delimited file is written, from its first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from recsys_spark.core.errors import DataError

SEPARATORS = ("::", "\t", ",", ";", "|", " ")  # the blank last: it also parts words


@dataclass(frozen=True)
class Written:
    separator: str
    header: bool
    names: tuple[str, ...]  # of the header, else made up: column_1, ...


def written(lines: Sequence[str], where: str) -> Written:
    """Raises DataError where no separator parts all lines alike into two or more fields.

    >>> written(["user,item,stars", "u1,i1,3", "u1,i2,4"], "a.csv")
    Written(separator=',', header=True, names=('user', 'item', 'stars'))
    >>> written(["1::1193::5", "1::661::3"], "ratings.dat").names
    ('column_1', 'column_2', 'column_3')
    """
    lines = [line for line in lines if line.strip()]
    for separator in SEPARATORS:
        rows = [_fields(line, separator) for line in lines]
        width = len(rows[0]) if rows else 0
        if width > 1 and all(len(row) == width for row in rows):
            header = _is_header(rows)
            made_up = tuple(f"column_{number}" for number in range(1, width + 1))
            return Written(separator, header, tuple(rows[0]) if header else made_up)
    raise DataError(
        where,
        found=repr(lines[0][:80]) if lines else "no lines",
        expected="lines parted alike by one of " + ", ".join(map(repr, SEPARATORS)),
        remedy="describe it by hand under `source:`; of lists make rows by a query (both in "
        "docs/own-data.md)",
    )


def _fields(line: str, separator: str) -> list[str]:
    if len(separator) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator), [])


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Different names without a number among them, above a row that is not like that: no column
    goes on as it began, u1 above u2 for example.
    """
    first = rows[0]
    named = len(set(first)) == len(first) and not any(_is_number(text) for text in first)
    for column in zip(*rows, strict=True):
        shapes = {re.sub(r"\d+", "0", text) for text in column}
        if len(shapes) == 1 and "0" in shapes.pop():
            return False
    return (
        named
        and len(rows) > 1
        and (any(_is_number(text) for text in rows[1]) or not set(first) & set(rows[1]))
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.strip() == ""
    return True

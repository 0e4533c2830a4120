"""Whether delimited files are as their user described them: headers, quotes, names of fields."""

from __future__ import annotations

import csv
from pathlib import Path

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.files.spec import File

BOM = "\ufeff"
SAMPLED = 20  # lines of a file in which quotes are looked for
# What other people call a column, in lower case and without what is neither letter nor digit
_ALSO = {
    c.USER_ID: {"user", "userid", "uid", "customer", "customerid", "visitorid"},
    c.ITEM_ID: {"item", "itemid", "iid", "product", "productid", "movieid", "sku", "articleid"},
    c.TS: {"ts", "time", "timestamp", "date", "datetime", "unixtime", "createdat"},
    c.VALUE: {"value", "rating", "stars", "score", "count", "plays", "weight"},
}


def meant(name: str) -> str:
    """The column of the lake's table that a name commonly means; empty: none is known.

    >>> meant("movieId"), meant("unix_time"), meant("store")
    ('item_id', 'ts', '')
    """
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    return next((column for column, names in _ALSO.items() if plain in names), "")


def fields_of(line: str, separator: str, *, quoted: bool) -> list[str]:
    """The fields of one line, without their quotes.

    >>> fields_of('"a, b",c', ",", quoted=True)
    ['a, b', 'c']
    """
    if not quoted or len(separator) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator), [])


def require_fits(file: File, paths: dict[str, Path]) -> None:
    """Raises DataError for files of one kind whose headers differ, whose header says another order
    than `columns`, and for quotes around ids or numbers of files that are said to have none.
    paths: {name below the data folder: path}.
    """
    first: tuple[str, list[str]] | None = None
    for name, path in paths.items():
        with heads.opened(path) as source:
            top = source.read(heads.LONGEST).decode(file.encoding, errors="replace")
        rows = [
            fields_of(line, file.separator, quoted=file.quoted)
            for line in top.removeprefix(BOM).splitlines()[:SAMPLED]
        ]
        if file.header:
            first = first or (name, rows[0])
            if rows[0] != first[1]:
                raise DataError(
                    f"{path}, line 1",
                    found=repr(file.separator.join(rows[0])[:80]),
                    expected=f"the header of {first[0]}, "
                    f"{file.separator.join(first[1])[:80]!r}, in every file",
                    remedy="write the header into this file, or describe it under `kinds`",
                )
            _require_order(file, path, rows[0])
        if not file.quoted:
            _require_bare(file, path, rows)


def _require_order(file: File, path: Path, header: list[str]) -> None:
    for column, name in zip(file.columns, header, strict=False):
        other = meant(name)
        if other and other != column and column in _ALSO and other in file.columns:
            right = [meant(each) or "-" for each in header]
            raise DataError(
                f"{path}, line 1",
                found=f"{name!r} where `columns` has {column}",
                expected="`columns` in the order of the header",
                remedy=f"set columns: [{', '.join(right)}] if that is what they are, or rename "
                "the header",
            )


def _require_bare(file: File, path: Path, rows: list[list[str]]) -> None:
    for number, row in enumerate(rows, 1):
        for column, text in zip(file.columns, row, strict=False):
            if column in _ALSO and len(text) > 1 and text[0] == text[-1] == '"':
                raise DataError(
                    f"{path}, line {number}, {column}",
                    found=f"{text} in quotes",
                    expected="text without them, for `quoted` is not set",
                    remedy="set `quoted: true`",
                )

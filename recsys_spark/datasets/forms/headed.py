"""Delimited files of a `source:` entry: their columns have the names of the header, or those that
the entry gives.
"""

from __future__ import annotations

from collections import Counter

from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.files.described import BOM, SAMPLED, fields_of
from recsys_spark.datasets.forms import blocks, lines
from recsys_spark.datasets.forms.files import Files
from recsys_spark.datasets.forms.scan import Scan
from recsys_spark.datasets.forms.source import Entry


def scan(spark: SparkSession, entry: Entry, files: Files) -> Scan:
    """Raises DataError for headers that differ or name a column twice, and for quoted text that
    goes over a line's end unless `multiline` is set; ConfigError where nothing names the columns.
    """
    tops = {stored.name: _top(spark, entry, stored.url) for stored in files.stored}
    folders = blocks.partitions(files.stored)
    if entry.header:
        names = _header(entry, {name: top[0] for name, top in tops.items()})
    elif entry.names:
        names = entry.names
    else:
        raise ConfigError(
            f"files {entry.files}",
            found="header: false, and no names",
            expected="a name for every column",
            remedy="set `names` to a list of them in order, or `header: true`",
        )
    _require_distinct(entry, (*names, *folders))
    if not entry.multiline:
        _require_closed_quotes(entry, tops)
    file = entry.file(str(entry.files), (*names, *folders), typed=False)
    headers = {top[0] for top in tops.values()} if entry.header else ()
    reader = blocks.reading(spark, files.size_bytes)
    return lines.scan(spark, file, files.stored, reader, headers)


def _top(spark: SparkSession, entry: Entry, url: str) -> list[str]:
    first = heads.lines(spark, url, SAMPLED)
    return [line.decode(entry.encoding, errors="replace").removeprefix(BOM) for line in first]


def _header(entry: Entry, headers: dict[str, str]) -> tuple[str, ...]:
    """The names in the first line, which must be the same in all files."""
    (first, header), *others = headers.items()
    for name, other in others:
        if other != header:
            raise DataError(
                f"files {entry.files}, {name}, line 1",
                found=repr(other[:120]),
                expected=f"the header of {first}: {header[:120]!r}",
                remedy="write the header into every file, or give a pattern for files of one "
                "layout",
            )
    return tuple(fields_of(header, entry.separator, quoted=entry.quoted))


def _require_distinct(entry: Entry, names: tuple[str, ...]) -> None:
    several = [name for name, times in Counter(map(str.lower, names)).items() if times > 1]
    if several or "" in names:
        raise DataError(
            f"files {entry.files}, names of columns",
            found=", ".join(names),
            expected="names that differ in more than case"
            if several
            else f"a name for every column, split by {entry.separator!r}",
            remedy="name them apart in the files, or set `header: false` and `names`",
        )


def _require_closed_quotes(entry: Entry, tops: dict[str, list[str]]) -> None:
    for name, top in tops.items():
        for number, line in enumerate(top[:-1] if len(top) == SAMPLED else top, 1):
            if entry.quoted and line.count('"') % 2:
                raise DataError(
                    f"files {entry.files}, {name}, line {number}",
                    found=repr(line[:80]),
                    expected="quoted text that ends on its line",
                    remedy="set `multiline: true` where it goes on, or `quoted: false` where a "
                    "quote is a letter like others",
                )

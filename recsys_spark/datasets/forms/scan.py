"""The rows of a source as it has them: its own columns, and beside these the place and the text of
each row, and the reason why its form alone makes it unusable.

A row is identified by `source_file` (its path below the data folder, or its table), `block` (start
of the part of the file that one task reads) and `at` (its number there). The counts of rows by
block turn this key into a line number.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.datasets.files.spec import File

BLOCK, AT, FIRST = "block", "at", "first_line"
PLACE = (c.SOURCE_FILE, BLOCK, AT)
ENTRY = "entry"  # number of a row among those of its line, where a line holds lists; else 0
HEADER = "header"

FIELDS, ENCODING, RECORD = "wrong_number_of_fields", "wrong_encoding", "not_a_record"
# Of records with keys
MISSING_KEY, UNKNOWN_KEY, CUT = "missing_key", "unknown_key", "cut_short"
TWICE, ELSEWHERE = "id_twice", "id_of_another_file"
WRONG_COUNT = "wrong_number_of_entries"

_INNER = "_recsys_"


def inner(name: str) -> str:
    """Name of a column beside those of the source: one that no source has."""
    return _INNER + name


@dataclass(frozen=True)
class Scan:
    """All rows of one description. rows: the columns of `file`, and under their inner names
    source_file, block, at, raw, reason (null: the form is right) and header (true: no row).
    """

    file: File
    names: tuple[str, ...]  # what `source_file` may be, in the order of the rows
    size_bytes: int
    rows: DataFrame
    in_files: bool = True  # false: rows of a table, which have no line number
    num_rows: int | None = None  # where it is known beforehand
    lines: DataFrame | None = None  # where `rows` are not each line once

    def first_lines(self) -> DataFrame:
        """One row per block: the line number (from 1) of `at` = 0 in that block, within its file
        and over all files.

        This is a small job, which counts rows without parsing them.
        """
        counted = self.rows if self.lines is None else self.lines
        blocks = (
            counted.groupBy(
                F.col(inner(c.SOURCE_FILE)).alias(c.SOURCE_FILE), F.col(inner(BLOCK)).alias(BLOCK)
            )
            .agg(F.min(inner(AT)).alias(AT), F.count(F.lit(1)).alias("lines"))
            .collect()
        )
        order = {name: place for place, name in enumerate(self.names)}
        lines, over_all, file, in_file = [], 0, None, 0
        for block in sorted(blocks, key=lambda row: (order[row[c.SOURCE_FILE]], row[BLOCK])):
            in_file = in_file if block[c.SOURCE_FILE] == file else 0
            file = block[c.SOURCE_FILE]
            lines.append((file, block[BLOCK], in_file + 1 - block[AT], over_all + 1 - block[AT]))
            in_file, over_all = in_file + block["lines"], over_all + block["lines"]
        schema = f"{c.SOURCE_FILE} string, {BLOCK} long, {FIRST} long, {FIRST}_of_all long"
        return F.broadcast(self.rows.sparkSession.createDataFrame(lines, schema))

"""Delimited text, read line by line: each line is split into the fields that its description
names. Uses only built-in functions of Spark.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Callable, Iterable, Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.datasets.files.described import BOM
from recsys_spark.datasets.files.spec import File
from recsys_spark.datasets.forms import blocks
from recsys_spark.datasets.forms.blocks import Stored
from recsys_spark.datasets.forms.scan import (
    AT,
    BLOCK,
    ENCODING,
    ENTRY,
    FIELDS,
    HEADER,
    Scan,
    inner,
)


def scan(
    spark: SparkSession,
    file: File,
    files: Sequence[Stored],
    reader: SparkSession,
    headers: Iterable[str] = (),
) -> Scan:
    """Files of one kind, read as text by the session that `blocks.reading` gave. headers: the
    lines that are no rows, as they stand at the top of the files.
    """
    if file.multiline:
        return _multiline(spark, file, files, reader)
    folders = blocks.partitions(files)
    of_line = [name for name in file.columns if name not in folders]
    # Where lines are numbered: elsewhere Spark would parse a line again for each use of a field
    parse = partial(_parsed, file, len(of_line)) if file.quoted else None
    lines = blocks.in_session(spark, text(files, reader, file.encoding, parse))
    width, fields = _split(file, len(of_line))
    reason = F.when(width != len(of_line), FIELDS)
    if file.encoding == "UTF-8":
        reason = F.coalesce(F.when(~F.is_valid_utf8(inner(c.RAW)), ENCODING), reason)
    first = {header.removeprefix(BOM) for header in headers}
    rows = lines.select(
        *[inner(name) for name in (c.SOURCE_FILE, BLOCK, AT, c.RAW)],
        reason.alias(inner(c.REASON)),
        (F.col(inner(c.RAW)).isin(*first) if first else F.lit(False)).alias(inner(HEADER)),
        *[field.alias(name) for name, field in zip(of_line, fields, strict=True)],
        *folders,
    )
    if file.wrong:
        wrong = [F.when(F.expr(sql), F.lit(name)) for name, sql in file.wrong.items()]
        rows = rows.withColumn(inner(c.REASON), F.coalesce(inner(c.REASON), *wrong))
    scanned = blocks.scanned(file, files, rows)
    return replace(scanned, rows=_entries(file, rows), lines=rows) if file.lists else scanned


def _entries(file: File, lines: DataFrame) -> DataFrame:
    """A row for each entry of the lists of usable lines; headers stay, as a sign that their file
    was read.
    """
    of_table = F.expr(file.where) if file.where else F.lit(True)
    kept = lines.where(F.col(inner(HEADER)) | (F.col(inner(c.REASON)).isNull() & of_table))
    lists = [
        F.split(F.coalesce(name, F.lit("")), re.escape(file.list_separator)).alias(name)
        for name in file.lists
    ]
    entries = kept.withColumn(inner("lists"), F.arrays_zip(*lists)).drop(*file.lists)
    exploded = entries.select(
        *[F.col(name) for name in entries.columns if name != inner("lists")],
        F.posexplode(inner("lists")).alias(inner(ENTRY), inner("of_lists")),
    )
    return exploded.select(
        *[F.col(name) for name in exploded.columns if name != inner("of_lists")],
        *[F.col(inner("of_lists")).getField(name).alias(name) for name in file.lists],
        (F.col(inner(ENTRY)) + 1).alias("place"),
    )


def text(
    files: Sequence[Stored],
    reader: SparkSession,
    encoding: str = "UTF-8",
    parse: Callable[[Column], Column] | None = None,
) -> DataFrame:
    """The lines of text files under inner names: source_file, block, at, raw, and what `parse`
    makes of a line; beside them the columns of partition folders.
    """
    line = F.col("value")
    if encoding != "UTF-8":
        line = F.decode(line.cast("binary"), encoding)
    marked = F.startswith(line, F.lit(BOM))
    raw = F.when(marked, F.substring(line, 2, 1 << 30)).otherwise(line)
    return (
        reader.read.options(**blocks.base(files))
        .text(blocks.paths(files))
        .select(
            blocks.source_file(files).alias(inner(c.SOURCE_FILE)),
            F.col("_metadata.file_block_start").alias(inner(BLOCK)),
            # Keeps Spark from pushing a filter below this step, where each line would be split
            # again for every use of a field
            blocks.number_in_task().alias(inner(AT)),
            raw.alias(inner(c.RAW)),
            *([] if parse is None else [parse(raw).alias(inner("parsed"))]),
            *blocks.partitions(files),
        )
    )


def _multiline(
    spark: SparkSession, file: File, files: Sequence[Stored], reader: SparkSession
) -> Scan:
    """Records that may go over several lines: a file is read by one task, and its records are
    counted in place of its lines.
    """
    folders = blocks.partitions(files)
    of_line = [name for name in file.columns if name not in folders]
    texts = [f"_recsys_{place}" for place in range(len(of_line))]
    corrupt = inner("corrupt")
    schema = ", ".join(f"{name} string" for name in (*texts, corrupt))
    records = (
        reader.read.options(**blocks.base(files))
        .options(
            sep=file.separator,
            header=file.header,
            quote='"',
            escape='"',
            multiLine=True,
            encoding=file.encoding,
            columnNameOfCorruptRecord=corrupt,
            mode="PERMISSIVE",
        )
        .schema(schema)
        .csv(blocks.paths(files))
    )
    rows = records.select(
        blocks.source_file(files).alias(inner(c.SOURCE_FILE)),
        F.lit(0).cast("bigint").alias(inner(BLOCK)),
        blocks.number_in_task().alias(inner(AT)),
        F.coalesce(corrupt, F.to_csv(F.struct(*texts), {"sep": file.separator})).alias(
            inner(c.RAW)
        ),
        F.when(F.col(corrupt).isNotNull(), FIELDS).alias(inner(c.REASON)),
        F.lit(False).alias(inner(HEADER)),
        *[F.col(name).alias(column) for name, column in zip(texts, of_line, strict=True)],
        *folders,
    )
    return blocks.scanned(file, files, blocks.in_session(spark, rows))


def _split(file: File, width: int) -> tuple[Column, list[Column]]:
    """(number of fields in a line, the declared fields; null where missing)."""
    line, separator = F.col(inner(c.RAW)), re.escape(file.separator)
    if not file.quoted:
        parts = F.split(line, separator, -1)
        return F.size(parts), [F.get(parts, F.lit(place)) for place in range(width)]
    # Quoted text may contain the separator
    bare = F.regexp_replace(line, '"([^"]|"")*"', "")
    parsed = F.col(inner("parsed"))
    return F.size(F.split(bare, separator, -1)), [parsed[f"_{place}"] for place in range(width)]


def _parsed(file: File, width: int, line: Column) -> Column:
    options = {"sep": file.separator, "quote": '"', "escape": '"'}
    schema = ", ".join(f"_{place} string" for place in range(width))
    return F.from_csv(line, schema, options)

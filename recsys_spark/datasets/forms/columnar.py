"""Parquet, ORC and Avro files: their own columns and types."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import orc
from pyarrow import parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.forms import blocks
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.files import Files
from recsys_spark.datasets.forms.scan import AT, BLOCK, HEADER, Scan, inner
from recsys_spark.datasets.forms.source import Entry

# Columns of a typed source that no text stands for
_NO_TEXT = "interval"
_UUID = ("^(.{8})(.{4})(.{4})(.{4})(.{12})$", "$1-$2-$3-$4-$5")  # of 32 hexadecimal digits


def scan(spark: SparkSession, entry: Entry, files: Files) -> Scan:
    """Raises DataError for a file that is cut short or cannot be read, and for files whose columns
    have different types.
    """
    require_whole(files)
    reader = blocks.reading(spark, files.size_bytes)
    times, uuids = _nanoseconds(files), _uuids(files)
    if times:
        reader.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    read = reader.read.schema(_plain(files, times, uuids)) if uuids else reader.read
    converted = {name: _in_microseconds(name, zone) for name, zone in times.items()} | {
        name: F.regexp_replace(F.lower(F.hex(f"`{name}`")), *_UUID) for name in uuids
    }
    with spelled_out(f"files {entry.files}"):
        source = (
            read.format(files.form)
            .options(**blocks.base(files.stored))
            .option("mergeSchema", files.form != "avro")
            .load(blocks.paths(files.stored))
            .withColumns(converted)
        )
    parquet = files.form == "parquet"
    place = (
        F.lit(0).cast("bigint") if parquet else F.col("_metadata.file_block_start"),
        F.col("_metadata.row_index") if parquet else blocks.number_in_task(),
    )
    rows = with_places(source, blocks.source_file(files.stored), *place)
    file = entry.file(str(entry.files), tuple(source.columns), typed=True)
    return blocks.scanned(
        file, files.stored, blocks.in_session(spark, rows), num_rows=rows_of(files)
    )


def with_places(source: DataFrame, name: Any, block: Any, at: Any) -> DataFrame:
    """The rows of a typed source beside their place; `raw` is the row as JSON."""
    texts = [f"`{field.name}`" for field in source.schema if _NO_TEXT not in str(field.dataType)]
    return source.select(
        name.alias(inner(c.SOURCE_FILE)),
        block.alias(inner(BLOCK)),
        at.alias(inner(AT)),
        F.to_json(F.struct(*texts)).alias(inner(c.RAW)),
        F.lit(None).cast("string").alias(inner(c.REASON)),
        F.lit(False).alias(inner(HEADER)),
        *[f"`{name}`" for name in source.columns],
    )


def require_whole(files: Files) -> None:
    """Raises DataError for a file on this machine whose end, where its columns are described, is
    not there, and for a column that has another type in another file.
    """
    first: dict[str, tuple[Path, pa.DataType]] = {}
    for path in files.paths:
        for field in _schema(path, files.form):
            earlier, kind = first.setdefault(field.name, (path, field.type))
            if kind != field.type and not (pa.types.is_null(kind) or pa.types.is_null(field.type)):
                raise DataError(
                    f"files {files.folder}, column {field.name}",
                    found=f"{field.type} in {path.name}, {kind} in {earlier.name}",
                    expected="one type in all files",
                    remedy="give a pattern for files of one layout, or write them anew alike",
                )


def _nanoseconds(files: Files) -> dict[str, str | None]:
    """{column of times in nanoseconds: its zone}, which pandas writes and Spark does not read but
    as numbers; of files behind a URL it says so. Spark's own older form (INT96) is no number.
    """
    times: dict[str, str | None] = {}
    for path in files.paths if files.form == "parquet" else ():
        stored = pq.read_metadata(path).schema
        columns = [stored.column(place) for place in range(len(stored))]
        numbers = {column.path for column in columns if column.physical_type == "INT64"}
        for field in _schema(path, files.form):
            is_fine = pa.types.is_timestamp(field.type) and field.type.unit == "ns"
            if is_fine and field.name in numbers:
                times[field.name] = field.type.tz
    return times


def _in_microseconds(name: str, zone: str | None) -> Column:
    at = F.timestamp_micros(F.expr(f"`{name}` div 1000"))
    return at if zone else at.cast("timestamp_ntz")


def _uuids(files: Files) -> set[str]:
    """Columns of UUIDs, which Spark refuses unless it is told to read their bytes."""
    if files.form != "parquet":
        return set()
    fields = [field for path in files.paths for field in _schema(path, files.form)]
    return {field.name for field in fields if isinstance(field.type, pa.UuidType)}


def _plain(files: Files, times: Collection[str], uuids: Collection[str]) -> StructType:
    """The columns of all files, UUIDs as bytes and times in nanoseconds as numbers."""
    kinds = {field.name: field.type for path in files.paths for field in _schema(path, files.form)}
    kinds |= dict.fromkeys(times, pa.int64()) | dict.fromkeys(uuids, pa.binary())
    return from_arrow_schema(pa.schema(list(kinds.items())), prefer_timestamp_ntz=True)


def rows_of(files: Files) -> int | None:
    """Rows of files on this machine, as their ends say; None where they do not."""
    if files.local is None or files.form == "avro":
        return None
    if files.form == "parquet":
        return sum(pq.read_metadata(path).num_rows for path in files.paths)
    return sum(orc.ORCFile(str(path)).nrows for path in files.paths)


def _schema(path: Path, form: str) -> Any:
    try:
        if form == "parquet":
            return pq.read_schema(path)
        return orc.ORCFile(str(path)).schema if form == "orc" else []
    except PermissionError:
        found, remedy = "no permission to read it", "make it readable for this user"
    except (pa.ArrowException, OSError) as problem:
        found = f"a damaged {form} file ({str(problem).splitlines()[0][:120]})"
        remedy = "the file was cut short or is still being written: copy it again"
    raise DataError(str(path), found=found, expected=f"a whole {form} file", remedy=remedy)

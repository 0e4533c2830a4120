"""How files are cut among tasks, and what a row's place in its file is then called.

Several jobs read the same files, so they are cut by their sizes alone (`reading`): a row has one
key in all of them.
"""

from __future__ import annotations

import re
import uuid
from typing import Protocol, Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files.spec import File
from recsys_spark.datasets.forms.scan import Scan

# Number of tasks for files of half a gigabyte or more. A block below 4 MB costs more to start than
# to read; several blocks above Spark's usual 128 MB may not fit in memory together.
BLOCKS, SMALLEST_BLOCK, LARGEST_BLOCK = 128, 4 << 20, 128 << 20
_LINE_IN_TASK = (1 << 33) - 1  # line bits of `monotonically_increasing_id`; higher bits: the task


class Stored(Protocol):
    """A file as Spark reads it."""

    @property
    def name(self) -> str: ...  # below the data folder
    @property
    def url(self) -> str: ...  # absolute path or URL
    @property
    def size_bytes(self) -> int: ...


def reading(spark: SparkSession, size_bytes: int) -> SparkSession:
    """A separate session to read files of so many bytes with, whose settings cut them into blocks
    by their sizes alone, one block per task.

    By default the cut depends on the cores available when a job starts, so a row's key would differ
    between jobs. Settings of the caller's session have no effect on it.
    """
    block = str(min(max(size_bytes // BLOCKS, SMALLEST_BLOCK), LARGEST_BLOCK))
    session = spark.newSession()
    session.conf.set("spark.sql.files.maxPartitionBytes", block)
    # The cost to open a file equals a block's size, so a task never reads a second block
    session.conf.set("spark.sql.files.openCostInBytes", block)
    session.conf.unset("spark.sql.files.maxPartitionNum")
    # A folder `store=007` gives the text 007, not the number 7
    session.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
    session.conf.set("spark.sql.session.timeZone", "UTC")
    return session


def paths(files: Sequence[Stored]) -> list[str]:
    """Paths for Spark: brackets, braces, stars and question marks, which it reads as patterns, are
    escaped.
    """
    return [re.sub(r"([\[\]{}*?\\])", r"\\\1", file.url) for file in files]


def partitions(files: Sequence[Stored]) -> tuple[str, ...]:
    """Columns that folders such as `date=2026-01-01` give, of every file. Raises DataError where
    files differ in them.
    """
    columns = {
        tuple(part.partition("=")[0] for part in file.name.split("/")[:-1] if "=" in part): file
        for file in files
    }
    if len(columns) > 1:
        one, other = list(columns.values())[:2]
        raise DataError(
            f"files {one.name} and {other.name}",
            found="different partition folders",
            expected="the same columns for all files",
            remedy="give a pattern that takes files of one layout",
        )
    return next(iter(columns))


def base(files: Sequence[Stored]) -> dict[str, str]:
    """Spark's option that makes columns of partition folders; empty where there are none."""
    folder = files[0].url.removesuffix(files[0].name)
    return {"basePath": folder} if partitions(files) else {}


def in_session(spark: SparkSession, rows: DataFrame) -> DataFrame:
    """The same rows as a frame of this session; files are still read with the settings of the
    original session.
    """
    name = f"lines_{uuid.uuid4().hex}"
    rows.createGlobalTempView(name)
    try:
        return spark.table(f"{spark.conf.get('spark.sql.globalTempDatabase')}.{name}")
    finally:
        spark.catalog.dropGlobalTempView(name)


def number_in_task() -> Column:
    """The number (from 0) of a row among those that its task reads."""
    return F.monotonically_increasing_id().bitwiseAND(_LINE_IN_TASK)


def source_file(files: Sequence[Stored]) -> Column:
    """The path of a row's file, relative to the data folder."""
    if all(re.fullmatch(r"[A-Za-z0-9_.-]+", file.name) for file in files):
        return F.col("_metadata.file_name")  # sufficient here, and costs nothing per line
    folder = re.sub(r"^\w+:(//)?", "", files[0].url).removesuffix(files[0].name)
    # Spark gives a URL; decoding would turn a plus into a space
    path = F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B")))
    return F.regexp_replace(path, rf"^\w+:(//)?\Q{folder}\E", "")


def scanned(
    file: File, files: Sequence[Stored], rows: DataFrame, num_rows: int | None = None
) -> Scan:
    names = tuple(stored.name for stored in files)
    size_bytes = sum(stored.size_bytes for stored in files)
    return Scan(file, names, size_bytes, rows, num_rows=num_rows)

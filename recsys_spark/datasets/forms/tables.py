"""Tables that are none of ours: Delta by path or name at a version, any other table or view of the
session, and SQL queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.core.artifacts import fingerprint
from recsys_spark.core.errors import ConfigError, TableError, first_line
from recsys_spark.datasets.forms import blocks
from recsys_spark.datasets.forms.columnar import with_places
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.scan import Scan
from recsys_spark.datasets.forms.source import Entry
from recsys_spark.lake import outside

_UNKNOWN_BYTES = 1 << 40  # more than fit into one task


@dataclass(frozen=True)
class Version:
    """A Delta table as it was at one time."""

    where: str
    id: str
    version: int
    size_bytes: int
    change_feed: bool

    @property
    def name(self) -> str:
        return f"{self.where}@{self.version}"


def by_path(where: str) -> bool:
    return "/" in where


def version_of(spark: SparkSession, entry: Entry) -> Version | None:
    """The table at `version`, else at its latest; None for a table that is not Delta and for a
    query. Raises TableError for a table, or a version, that is not there.
    """
    if entry.table is None:
        return None
    sql = _quoted(entry.table)
    try:
        with spelled_out(f"table {entry.table}"):
            detail = spark.sql(f"DESCRIBE DETAIL {sql}").collect()[0]
            is_delta = detail["format"] == "delta"
            latest = history(spark, entry.table).limit(1).collect() if is_delta else []
    except (PySparkException, Py4JJavaError) as problem:
        if not by_path(entry.table) and not _known(spark, entry.table):
            raise TableError(
                f"table {entry.table}",
                found=first_line(problem),
                expected="a table or view that this session knows, or a path with a slash in it",
                remedy="correct the name (catalog.schema.table); catalogs are set under "
                "env.spark.conf",
            ) from None
        latest = []
    if not latest:
        _require_known_form(entry)
        return None
    version = latest[0]["version"] if entry.version is None else entry.version
    feed = detail["properties"].get("delta.enableChangeDataFeed", "false") == "true"
    return Version(entry.table, detail["id"], int(version), int(detail["sizeInBytes"] or 0), feed)


def rows(spark: SparkSession, entry: Entry, at: Version | None) -> DataFrame:
    """All rows. Raises TableError for a version that is not there, ConfigError for a query that
    Spark refuses.
    """
    if at is not None:
        return rows_at(spark, at.where, at.version)
    try:
        with spelled_out(f"query {entry.query}" if entry.query else f"table {entry.table}"):
            return spark.sql(entry.query) if entry.query else spark.table(str(entry.table))
    except PySparkException as problem:
        raise ConfigError(
            f"query {str(entry.query)[:120]}",
            found=first_line(problem),
            expected="a SELECT over tables that this session knows",
            remedy="correct `query`",
        ) from None


def rows_at(spark: SparkSession, where: str, version: int) -> DataFrame:
    with spelled_out(f"table {where}, version {version}"):
        return outside.at_version(spark, where, version)


def history(spark: SparkSession, where: str) -> DataFrame:
    return spark.sql(f"DESCRIBE HISTORY {_quoted(where)}")


def scan(spark: SparkSession, entry: Entry, at: Version) -> Scan:
    """All rows of a Delta table, whose places are those in its files."""
    source = rows_at(blocks.reading(spark, at.size_bytes), at.where, at.version)
    block = F.xxhash64("_metadata.file_path", "_metadata.file_block_start")
    placed = with_places(source, F.lit(at.name), block, blocks.number_in_task())
    placed = blocks.in_session(spark, placed)
    return _scanned(entry, at.name, source, placed, at.size_bytes)


def scan_placeless(entry: Entry, name: str, source: DataFrame) -> Scan:
    """Rows that have no place: they get one of their content and of a number among those with the
    same.
    """
    text = F.to_json(F.struct(*[f"`{column}`" for column in source.columns]))
    content = F.xxhash64(text)
    equal = F.row_number().over(Window.partitionBy(content).orderBy(text))
    placed = with_places(source, F.lit(name), content, equal)
    return _scanned(entry, name, source, placed, _UNKNOWN_BYTES)


def _scanned(
    entry: Entry, name: str, source: DataFrame, placed: DataFrame, size_bytes: int
) -> Scan:
    file = entry.file(name, tuple(source.columns), typed=True)
    return Scan(file, (name,), size_bytes, placed, in_files=False)


def identity(entry: Entry, at: Version | None, source: DataFrame) -> str:
    """Of a Delta table its id and version; of others, which have no version, all rows are read."""
    if at is not None:
        return fingerprint([at.id, at.version])
    text = F.to_json(F.struct(*[f"`{column}`" for column in source.columns]))
    summed = F.sum(F.xxhash64(text).cast("decimal(38,0)"))
    with spelled_out(entry.table or f"query {entry.query}"):
        row = source.agg(F.count(F.lit(1)), summed).collect()[0]
    return fingerprint([source.schema.simpleString(), row[0], str(row[1])])


def _known(spark: SparkSession, name: str) -> bool:
    try:
        return bool(spark.catalog.tableExists(name))
    except (PySparkException, Py4JJavaError):
        return False


def _quoted(where: str) -> str:
    if by_path(where):
        return f"delta.`{where.replace('`', '``')}`"
    return ".".join(f"`{part.strip('`')}`" for part in where.split("."))


def _require_known_form(entry: Entry) -> None:
    where = str(entry.table)
    if by_path(where):
        raise TableError(
            f"table {where}",
            found="no Delta table",
            expected="a folder or URL with a _delta_log in it",
            remedy="correct the path; plain files go under `files`",
        )
    if entry.version is not None or getattr(entry, "incremental", False):
        raise ConfigError(
            f"table {where}",
            found="a table that is not Delta",
            expected="a Delta table, which alone has versions",
            remedy="leave out `version` and `incremental`",
        )

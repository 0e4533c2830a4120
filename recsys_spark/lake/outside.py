"""Delta tables that are none of the lake's: read where they lie."""

from __future__ import annotations

import re

from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.core.errors import TableError, first_line

_LOCAL = re.compile("^file:/+")


def read(spark: SparkSession, where: str, version: int) -> DataFrame:
    """The rows, as of `version`, of a table: a path, a URL or a name in the catalog. Raises
    TableError.
    """
    there = (
        spark.catalog.tableExists(where)
        if _is_name(where)
        else DeltaTable.isDeltaTable(spark, where)
    )
    if not there:
        raise TableError(
            f"table {where}",
            found="no such Delta table",
            expected="a path, a URL or a name in the catalog",
            remedy="set `table` of the step to one that is there; a path has a slash in it",
        )
    return at_version(spark, where, version)


def at_version(spark: SparkSession, where: str, version: int) -> DataFrame:
    """The rows of a table that is there, as of `version`. Raises TableError."""
    source = spark.read.format("delta").option("versionAsOf", version)
    try:
        return source.table(where) if _is_name(where) else source.load(where)
    except PySparkException as problem:
        raise TableError(
            f"table {where}, version {version}",
            found=first_line(problem),
            expected="a version that DESCRIBE HISTORY lists and whose files are still there",
            remedy="set `version` to such a one, or leave it out for the latest",
        ) from None


def folder(spark: SparkSession, where: str) -> str:
    """Folder or URL of a table's files. Raises TableError where its columns have other names in
    them than in the table.
    """
    table = (
        DeltaTable.forName(spark, where) if _is_name(where) else DeltaTable.forPath(spark, where)
    )
    detail = table.detail().select("location", "properties").collect()[0]
    mode = detail["properties"].get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise TableError(
            f"table {where}, delta.columnMapping.mode",
            found=mode,
            expected="none: its files are read as they are",
            remedy="use export_shards, or write the rows to a table without column mapping",
        )
    return _LOCAL.sub("/", re.sub("^s3[an]://", "s3://", detail["location"]))


def _is_name(where: str) -> bool:
    return "/" not in where

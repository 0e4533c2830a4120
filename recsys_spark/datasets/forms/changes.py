"""What a Delta table has got since a version that was taken before: from its change data feed, else
from the files that the earlier version did not have.

Rows that come twice do no harm, for they are merged by key: where a difference cannot be had, the
whole table is read.
"""

from __future__ import annotations

from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import log
from recsys_spark.core.errors import TableError, first_line
from recsys_spark.datasets.forms import tables
from recsys_spark.datasets.forms.failures import quiet
from recsys_spark.datasets.forms.scan import inner
from recsys_spark.datasets.forms.tables import Version

logger = log.get(__name__)

_IN = inner("file")
_ADDS = ("insert", "update_postimage")
# Operations that take rows away, or may
_TAKE = ("DELETE", "UPDATE", "MERGE", "TRUNCATE", "RESTORE", "REPLACE TABLE", "CREATE OR REPLACE")


def since(spark: SparkSession, now: Version, taken: dict[str, Any] | None) -> DataFrame | None:
    """The rows that came since `taken`, what the last run's record says of the source: at least
    those of `now` that the earlier version did not have. None: all rows, for a reason that is
    logged.
    """
    if taken is None:
        return None
    if taken.get("id") != now.id:
        _say_whole(now, "it is another table than the one that the last run read")
        return None
    before = int(taken["version"])
    if before > now.version:
        _say_whole(now, f"version {before}, which the last run read, is newer")
        return None
    try:
        with quiet():
            if now.change_feed and before < now.version:
                fed = _fed(spark, now, before)
                if fed is not None:
                    return fed
            _say_taken_away(spark, now, before)
            return _in_new_files(spark, now, before)
    except (PySparkException, TableError) as problem:
        _say_whole(now, f"version {before} is not there any more ({first_line(problem)})")
        return None


def _fed(spark: SparkSession, now: Version, before: int) -> DataFrame | None:
    """Rows of the change data feed; None where it was off for a while, or rows were also taken
    away.
    """
    reader = spark.read.format("delta").options(
        readChangeFeed=True, startingVersion=before + 1, endingVersion=now.version
    )
    try:
        by_path = tables.by_path(now.where)
        changes = reader.load(now.where) if by_path else reader.table(now.where)
        kinds = {row[0] for row in changes.select("_change_type").distinct().collect()}
    except PySparkException as problem:
        logger.warning(
            log.fields(event="no_change_feed", table=now.where, problem=first_line(problem))
        )
        return None
    if kinds - set(_ADDS):
        return None
    return changes.drop("_change_type", "_commit_version", "_commit_timestamp")


def _in_new_files(spark: SparkSession, now: Version, before: int) -> DataFrame:
    earlier = tables.rows_at(spark, now.where, before).inputFiles()
    rows = tables.rows_at(spark, now.where, now.version)
    # Delta never gives a file's name again, and paths are written in several ways
    known = spark.createDataFrame([(path.rpartition("/")[2],) for path in earlier], f"{_IN} string")
    marked = rows.withColumn(_IN, F.col("_metadata.file_name"))
    return marked.join(F.broadcast(known), on=_IN, how="left_anti").drop(_IN)


def _say_taken_away(spark: SparkSession, now: Version, before: int) -> None:
    rows = tables.history(spark, now.where).where(
        (F.col("version") > before) & (F.col("version") <= now.version)
    )
    taking = [
        f"{row['operation']} at version {row['version']}"
        for row in rows.orderBy("version").collect()
        if row["operation"] in _TAKE or row["operationParameters"].get("mode") == "Overwrite"
    ]
    if taking:
        logger.warning(
            log.fields(
                event="rows_taken_away",
                table=now.where,
                operations=", ".join(taking),
                meaning="what the source changed or took away stays stored; `stored: follow` "
                "without `incremental` makes the events what the table says now",
            )
        )


def _say_whole(now: Version, reason: str) -> None:
    logger.warning(
        log.fields(event="read_whole", table=now.where, version=now.version, reason=reason)
    )

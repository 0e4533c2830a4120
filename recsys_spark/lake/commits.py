"""The version that a table is at, and commits that meet another job's: what is tried again, and
what a user is told of those that fail.
"""

from __future__ import annotations

import random
import time
from typing import Any, Callable

from delta.tables import DeltaTable
from py4j.java_gateway import JavaClass
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from recsys_spark.core import log
from recsys_spark.core.errors import TableError

logger = log.get(__name__)
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before a commit that lost to another one is tried again


class _Conflict(TableError):
    """Another job's commit came first."""


_MENDABLE = (  # what Delta's text has in it, the error, what was found, the remedy
    (
        "No space left on device",
        TableError,
        "no space left on the disk",
        "free space there or under spark.local.dir, then run the same command again",
    ),
    (
        "Permission denied",
        TableError,
        "no permission to write",
        "make the folder writable, or set env.lake to another",
    ),
    (
        "DELTA_PATH_EXISTS",
        TableError,
        "a folder that is there already, made at the same time or by something else",
        "run the same command again; if that does not help, move the folder away or set "
        "env.lake to another",
    ),
    (
        "DELTA_CONCURRENT",
        _Conflict,
        "another job wrote to it at the same time",
        "run the same command again",
    ),
)


def latest(spark: SparkSession, table: str, *, in_catalog: bool) -> int:
    """The version of the last commit to a table that is there. From open-source Delta's log where
    this process has its JVM; else, and in a catalog, from the history, which takes a Spark job.
    """
    jvm: Any = None if in_catalog else getattr(spark, "_jvm", None)
    delta_log = jvm.org.apache.spark.sql.delta.DeltaLog if jvm else None
    if isinstance(delta_log, JavaClass):
        return int(delta_log.forTableWithSnapshot(spark._jsparkSession, table)._2().version())
    of = DeltaTable.forName if in_catalog else DeltaTable.forPath
    return int(of(spark, table).history(1).select("version").collect()[0][0])


def commit(table: str, write: Callable[[], Any]) -> None:
    """Run `write`, which either commits to the table at this place or leaves it as it was. Of two
    jobs that commit at once Delta lets one through; the other tries again. Raises TableError where
    a user can mend what stopped it, else Spark's own error.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            _told(table, write)
            return
        except _Conflict as problem:
            if pause_s is None:
                raise
            logger.warning(log.fields(table=table, found=problem.found, again_in_s=pause_s))
            # So that two that lost together do not meet again
            time.sleep(pause_s * random.uniform(0.5, 1.5))


def _told(table: str, write: Callable[[], Any]) -> None:
    try:
        write()
    except PySparkException as problem:
        text = str(problem)
        for sign, error, found, remedy in _MENDABLE:
            if sign in text:
                raise error(
                    f"table {table}",
                    found=found,
                    expected="a write that ends; nothing was changed",
                    remedy=remedy,
                ) from problem
        raise

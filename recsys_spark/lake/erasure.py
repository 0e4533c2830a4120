"""A user taken out of every table, its history included.

What Delta records of a commit (predicates, statistics of files) must not name the user either. So
rows are removed by a merge with a table of one row, which leaves no literal behind, older files go
at once, and the log begins anew at a checkpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.lake import commits, retention
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake

ID = "id"
# Where a user stands. An erasure that is cut short still finds the user: the splits, which know its
# playlists, go after the playlists' rows, and its index is the last
COLUMNS = {
    c.IMPRESSIONS: c.QUERY_ID,
    c.CANDIDATES: c.QUERY_ID,
    c.RECOMMENDATIONS: c.QUERY_ID,
    c.CURRENT: c.QUERY_ID,
    c.PREDICTIONS: c.QUERY_ID,
    c.QUERY_INDEX: c.QUERY_ID,
    c.INTERACTIONS: c.USER_ID,
    c.USERS: c.USER_ID,
    c.SPLITS: c.USER_ID,
    c.USER_INDEX: c.USER_ID,
}
# By query_kind and query_id: a playlist may have the id of another user
_OF_QUERIES = tuple(
    name
    for name, column in COLUMNS.items()
    if column == c.QUERY_ID and c.QUERY_KIND in SCHEMAS[name].fieldNames()
)
_MARKS = "spark.databricks.delta.properties.defaults.enableDeletionVectors"
_LOG_FILE = re.compile(r"(\d{20})\.(json|crc|checkpoint\..*)")


def rows(lake: Lake, user_id: str, *, sessions: bool = False) -> dict[str, int]:
    """{table: rows that name the user}, of the tables that are there. A quarantined row names it
    where the id stands in the raw text as a word: too many rather than too few. sessions: count
    the user's sessions too.
    """
    tables = [name for name in (c.QUARANTINE, *COLUMNS) if lake.exists(name)]
    if not tables:
        return {}
    gone = _gone(lake, user_id)
    named = [_named(lake, name, gone, sessions).select(F.lit(name)) for name in tables]
    counts = reduce(DataFrame.unionAll, named).toDF("table").groupBy("table").count().collect()
    return dict.fromkeys(tables, 0) | {row["table"]: row["count"] for row in counts}


def splits(lake: Lake, user_id: str, *, sessions: bool = False) -> set[str]:
    """run_ids of the splits that hold the user."""
    if not lake.exists(c.SPLITS):
        return set()
    held = _named(lake, c.SPLITS, _gone(lake, user_id), sessions).select(c.RUN_ID).distinct()
    return {row[0] for row in held.collect()}


def erase(
    lake: Lake, user_id: str, tables: Sequence[str], *, sessions: bool = False
) -> dict[str, int]:
    """Remove the user's rows from the tables, in the index its id alone (the number stays taken),
    and with them every older version. Returns {table: the version that is left}. No other job may
    write meanwhile.
    """
    gone = _gone(lake, user_id)
    left = {}
    for name in tables:
        merge = retention.delta(lake, name).alias("stored").merge(gone, _condition(name, sessions))
        merge = (
            merge.whenMatchedUpdate(set={COLUMNS[name]: F.lit(None)})
            if name in (c.USER_INDEX, c.QUERY_INDEX)
            else merge.whenMatchedDelete()
        )
        commits.commit(lake.where(name), merge.execute)
        _purge_deletion_vectors(lake, name)
        retention.vacuum(lake, name, hours=0)
        left[name] = _begin_log_anew(lake, name)
    return left


def _named(lake: Lake, name: str, gone: DataFrame, sessions: bool) -> DataFrame:
    """The table's rows that name the user."""
    condition = F.expr(_condition(name, sessions))
    return lake.read(name).alias("stored").join(F.broadcast(gone), on=condition, how="left_semi")


def _gone(lake: Lake, user_id: str) -> DataFrame:
    """(id, prefix, pattern, playlists): one row. prefix: of the ids of the user's sessions, as
    `etl.queries.id_of` writes them. playlists: their ids.
    """
    mark = c.SESSION_MARK
    prefix = user_id.replace("\\", "\\\\").replace(mark, f"\\{mark}") + mark
    word = rf"(?<![\p{{L}}\p{{N}}_]){re.escape(user_id)}(?![\p{{L}}\p{{N}}_])"
    shape = f"{ID} string, prefix string, pattern string, playlists array<string>"
    row = (user_id, prefix, word, _playlists(lake, user_id))
    return lake.spark.createDataFrame([row], shape).alias("gone")


def _playlists(lake: Lake, user_id: str) -> list[str]:
    """Those with events of the user and of nobody else; of others the user's events alone go."""
    if not lake.exists(c.SPLITS):
        return []
    events = lake.read(c.SPLITS).where(F.col(c.QUERY_KIND) == c.PLAYLIST)
    alone = F.bool_and(F.col(c.USER_ID).eqNullSafe(F.lit(user_id))).alias("alone")
    playlists = events.groupBy(c.QUERY_ID).agg(alone).where("alone")
    return [row[c.QUERY_ID] for row in playlists.collect()]


def _condition(name: str, sessions: bool) -> str:
    if name == c.QUARANTINE:
        return "stored.raw RLIKE gone.pattern"
    stored = f"stored.`{COLUMNS[name]}`"
    same = f"{stored} = gone.{ID}"
    if sessions:
        same = f"({same} OR startswith({stored}, gone.prefix))"
    if name in _OF_QUERIES:
        kind = f"stored.`{c.QUERY_KIND}`"
        playlist = f"{kind} = '{c.PLAYLIST}' AND array_contains(gone.playlists, {stored})"
        return f"({same} AND {kind} IN ('{c.USER}', '{c.SESSION}')) OR ({playlist})"
    return same


def _purge_deletion_vectors(lake: Lake, name: str) -> None:
    """Where deleted rows are only marked, which our own tables are not asked for but a platform may
    do by itself, files are written without them.
    """
    marked = lake.spark.conf.get(_MARKS, "false") == "true"
    if not (marked or lake.in_catalog or _on_databricks()):
        return
    features = retention.delta(lake, name).detail().select("tableFeatures").collect()[0][0] or ()
    if "deletionVectors" in features:
        where = lake.where(name) if lake.in_catalog else f"delta.`{lake.where(name)}`"
        lake.spark.sql(f"REORG TABLE {where} APPLY (PURGE)")


def _on_databricks() -> bool:
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def _begin_log_anew(lake: Lake, name: str) -> int:
    """Write a checkpoint and remove the log's older entries, whose statistics name the lowest and
    highest ids of files. A catalog's tables are its own: there log retention does it in time.
    Returns the version.
    """
    if lake.in_catalog or _on_databricks():
        return lake.version(name)
    jvm: Any = lake.spark._jvm
    session = lake.spark._jsparkSession
    jvm.org.apache.spark.sql.delta.DeltaLog.forTable(session, lake.where(name)).checkpoint()
    folder = jvm.org.apache.hadoop.fs.Path(f"{lake.where(name)}/_delta_log")
    system = folder.getFileSystem(session.sessionState().newHadoopConf())
    paths = [status.getPath() for status in system.listStatus(folder)]
    entries = [(path, _LOG_FILE.fullmatch(path.getName())) for path in paths]
    numbered = [(path, int(entry[1])) for path, entry in entries if entry is not None]
    version = max(number for _, number in numbered)
    for path, number in numbered:
        if number < version:
            system.delete(path, False)
    return version

"""Every read and write of a Delta table. Each write is one atomic commit, checked against the
table's schema.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator
from weakref import WeakKeyDictionary

from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, DataFrameReader, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError, first_line, nearest
from recsys_spark.lake import commits, records
from recsys_spark.lake.direct import is_catalog
from recsys_spark.lake.schemas import KEYS, PARTITIONS, SCHEMAS

# (application id, version): Delta skips a write whose pair, or a later version, it has committed
# before
Txn = tuple[str, int]

_PROPERTIES = {
    # Runs name versions of tables, and `rerun` reads them by time travel: neither `vacuum` nor the
    # clean-up of the log may take them away.
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.logRetentionDuration": "interval 3650 days",
    # Every step commits to `runs`, most to a second table: at Delta's 10 each third step wrote one
    "delta.checkpointInterval": "50",
}
_TXN_KEYS = ("spark.databricks.delta.write.txnAppId", "spark.databricks.delta.write.txnVersion")
# Delta leaves the version of a session's last commit here, whichever table and thread it was of
_LAST_COMMIT = "spark.databricks.delta.lastCommitVersionInSession"
# Threads of one session commit one after another: settings of the session say what and which
_COMMITTING: WeakKeyDictionary[SparkSession, threading.Lock] = WeakKeyDictionary()


class Lake:
    """The tables under one root: a folder, an object-store URL, or `catalog.schema`. runs: the
    folder of the run folders, which the table `runs` names from there.
    """

    def __init__(self, spark: SparkSession, root: str, runs: Path | None = None) -> None:
        self.spark = spark
        self.runs_dir = runs
        self.root = root.rstrip("/")
        self.in_catalog = is_catalog(root)
        # {(table, version): its rows}. Spark lists the files of an old version again for each new
        # frame, in four jobs, and once for one that is used again.
        self._frames: dict[tuple[str, int], DataFrame] = {}
        self._attempts: tuple[int, list[Run]] = (-1, [])  # (version of `runs`, those it has)

    def where(self, name: str) -> str:
        """Path, URL or catalog.schema.name of a table. Raises ConfigError for a name that is no
        table.
        """
        if name not in SCHEMAS:
            raise ConfigError(
                f"table {name!r}",
                expected=f"one of {', '.join(sorted(SCHEMAS))}{nearest(name, SCHEMAS)}",
            )
        if not self.in_catalog:
            return f"{self.root}/{name}"
        # Spark's parser wants a hyphen in quotes
        root = (f"`{part}`" if "-" in part else part for part in self.root.split("."))
        return f"{'.'.join(root)}.{name}"

    def exists(self, name: str) -> bool:
        where = self.where(name)
        if self.in_catalog:
            return self.spark.catalog.tableExists(where)
        return DeltaTable.isDeltaTable(self.spark, where)

    def version(self, name: str) -> int:
        """The latest version. Raises TableError if the table is missing."""
        self._require(name)
        return commits.latest(self.spark, self.where(name), in_catalog=self.in_catalog)

    def create(self, name: str) -> None:
        """Make the table, empty, if it is missing."""
        if not self.exists(name):
            self._first(name, self.spark.createDataFrame([], SCHEMAS[name]), txn=None)

    def release(self) -> None:
        """Let go of the versions that were read: their files, or the log's entries, may be gone."""
        self._frames.clear()

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The rows as of `version` (None: the latest), columns in the contract's order. Raises
        TableError.
        """
        if version is not None and (name, version) in self._frames:
            return self._frames[name, version]
        self._require(name)
        source: DataFrameReader = self.spark.read.format("delta")
        if version is not None:
            source = source.option("versionAsOf", version)
        try:
            rows = (
                source.table(self.where(name)) if self.in_catalog else source.load(self.where(name))
            )
        except PySparkException as problem:
            raise TableError(
                f"table {self.where(name)}, version {version}",
                found=first_line(problem),
                expected=f"a version up to {self.version(name)} whose files are still there",
                remedy="rerun the step that wrote it; versions are lost to `vacuum`",
            ) from None
        self._check(
            name,
            rows.schema,
            remedy="point env.lake at another folder (a lake that an earlier version wrote is not "
            "read), or move this table away and rerun its step",
        )
        rows = rows.select(*SCHEMAS[name].fieldNames())
        if version is not None:
            self._frames[name, version] = rows
        return rows

    def merge_new(
        self, name: str, rows: DataFrame, txn: Txn | None = None, *, some_new: bool = False
    ) -> int:
        """Insert the rows whose natural key the table lacks, in one commit; none when nothing is
        new. Returns the version of this commit, else the latest.

        `rows` must hold a key at most once; they are computed twice unless the caller caches them.
        Makes a missing table. some_new: the caller knows of such rows, so the table is not read to
        look for one.
        """
        new = self._fit(name, rows)
        if not self.exists(name):
            return self._first(name, new, txn)
        before = self.version(name)
        # A row of a table has no line, an event no step, in all its rows alike
        equal = {c.LINE: "<=>", c.STEP: "<=>"}
        same = " AND ".join(
            f"stored.`{key}` {equal.get(key, '=')} new.`{key}`" for key in KEYS[name]
        )
        stored = self.read(name, before).alias("stored")
        missing = new.alias("new").join(stored, on=F.expr(same), how="left_anti")
        if not some_new and missing.isEmpty():
            return before
        merge = (
            self._table(name)
            .alias("stored")
            .merge(new.alias("new"), same)
            .whenNotMatchedInsertAll()
        )
        version = self._commit(name, merge.execute, session_txn=txn)
        return self.version(name) if version is None else version

    def append(self, name: str, rows: DataFrame, txn: Txn) -> int | None:
        """Add the rows in one commit. Returns its version; None, and nothing added, when `txn` or a
        later version of it is committed already: of two writers with one pair one comes through.
        """
        return self._save(name, self._fit(name, rows).write.mode("append"), txn)

    def replace(
        self, name: str, rows: DataFrame, where: dict[str, str], txn: Txn | None = None
    ) -> int:
        """Replace the rows whose columns equal `where` by `rows` (which must all fit it), in one
        commit. Returns its version, in which no later writer has replaced them again; the latest
        where `txn` was committed before.
        """
        assert where, "replace needs a condition: an empty one would replace the whole table"
        new = self._fit(name, rows)
        self.create(name)
        condition = " AND ".join(
            f"`{column}` = '{_quoted(value)}'" for column, value in where.items()
        )
        writer = new.write.mode("overwrite").option("replaceWhere", condition)
        version = self._save(name, writer, txn)
        return self.version(name) if version is None else version

    def overwrite(self, name: str, rows: DataFrame) -> int:
        """Replace all rows by `rows`, in one commit. Returns its version; makes a missing table."""
        new = self._fit(name, rows)
        if not self.exists(name):
            return self._first(name, new, txn=None)
        version = self._save(name, new.write.mode("overwrite"), txn=None)
        assert version is not None, "a commit without a transaction id is never skipped"
        return version

    def runs(self) -> list[Run]:
        """The completed runs, oldest first. Read again only when another process has added some."""
        return [run for run in self.attempts() if run.state == "done"]

    def attempts(self) -> list[Run]:
        """As `runs`, with those whose last attempt failed."""
        if not self.exists(c.RUNS):
            return []
        version = self.version(c.RUNS)
        if version != self._attempts[0]:
            self._attempts = (
                version,
                [Run.of_row(row.asDict(), self.runs_dir) for row in self.read(c.RUNS).collect()],
            )
        return sorted(self._attempts[1], key=lambda run: (run.started_at, run.run_id))

    def add_run(self, run: Run) -> int:
        """Record a run; a record of the same run_id is replaced."""
        if any(run.run_id == other.run_id for other in self.attempts()):
            return self.replace(
                c.RUNS, records.rows(self.spark, [run], self.runs_dir), {c.RUN_ID: run.run_id}
            )
        return self.add_runs([run])

    def add_runs(self, runs: Iterable[Run]) -> int:
        """Record those runs that are not there yet, in one commit."""
        recorded = self.attempts()
        known = {run.run_id for run in recorded}
        new = [run for run in runs if run.run_id not in known]
        self.create(c.RUNS)
        if not new:
            return self.version(c.RUNS)
        # A plain append takes a third of a replacement's time
        rows = records.rows(self.spark, new, self.runs_dir)
        version = self._save(c.RUNS, rows.write.mode("append"), txn=None)
        if version is None:
            return self.version(c.RUNS)
        if version == self._attempts[0] + 1:
            added = [Run.of_row(run.row()) for run in new]
            self._attempts = (version, [*recorded, *added])
        return version

    def _first(self, name: str, rows: DataFrame, txn: Txn | None) -> int:
        """The commit that makes the table, rows included: of two that race, one fails and says
        so.
        """
        self._save(
            name,
            rows.write.mode("errorifexists")
            .options(**_PROPERTIES)
            .partitionBy(*PARTITIONS.get(name, ())),
            txn,
        )
        return 0

    def _save(self, name: str, writer: DataFrameWriter, txn: Txn | None) -> int | None:
        writer = writer.format("delta")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        where = self.where(name)
        return self._commit(
            name, lambda: writer.saveAsTable(where) if self.in_catalog else writer.save(where)
        )

    def _commit(
        self, name: str, write: Callable[[], Any], session_txn: Txn | None = None
    ) -> int | None:
        """The version that `write` commits; None when Delta finds it committed before."""
        with _COMMITTING.setdefault(self.spark, threading.Lock()):
            self.spark.conf.unset(_LAST_COMMIT)
            with self._txn(session_txn):
                commits.commit(self.where(name), write)
            version = self.spark.conf.get(_LAST_COMMIT, None)
        return None if version is None else int(version)

    def _fit(self, name: str, rows: DataFrame) -> DataFrame:
        self._check(
            name,
            rows.schema,
            remedy="this is a fault of the step that made the rows",
            thing="rows for table",
        )
        return rows.select(*SCHEMAS[name].fieldNames())

    def _require(self, name: str) -> None:
        if not self.exists(name):
            raise TableError(
                f"table {self.where(name)}",
                found="no such Delta table",
                expected=f"the table {name!r}",
                remedy="run the step that writes it first, or set env.lake to the lake that has it",
            )

    def _table(self, name: str) -> DeltaTable:
        self._require(name)
        return (DeltaTable.forName if self.in_catalog else DeltaTable.forPath)(
            self.spark, self.where(name)
        )

    def _check(self, name: str, found: StructType, remedy: str, thing: str = "table") -> None:
        """Names and types must be those of the contract; order and nullability may differ."""
        ours = {field.name: field.dataType.simpleString() for field in SCHEMAS[name]}
        theirs = {field.name: field.dataType.simpleString() for field in found}
        if ours == theirs:
            return
        missing, extra = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
        wrong = [n for n in ours if n in theirs and ours[n] != theirs[n]]
        facts = [f"no column {n}" for n in missing] + [
            f"unknown column {n} {theirs[n]}" for n in extra
        ]
        wanted = (
            [f"{n} {ours[n]}" for n in missing]
            + [f"no {n}" for n in extra]
            + [f"{n} {ours[n]}" for n in wrong]
        )
        facts += [f"{n} {theirs[n]}" for n in wrong]
        raise TableError(
            f"{thing} {self.where(name)}",
            found=", ".join(facts),
            expected=", ".join(wanted),
            remedy=remedy,
        )

    @contextlib.contextmanager
    def _txn(self, txn: Txn | None) -> Iterator[None]:
        """Delta takes the pair of a merge from the session alone, so all commits of a session hold
        one lock: a write beside it would take the pair for its own.
        """
        if txn is None:
            yield
            return
        for key, value in zip(_TXN_KEYS, txn, strict=True):
            self.spark.conf.set(key, str(value))
        try:
            yield
        finally:
            for key in _TXN_KEYS:
                self.spark.conf.unset(key)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")

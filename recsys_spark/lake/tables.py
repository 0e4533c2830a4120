"""Every read and write of a Delta table. Each write is one atomic commit, checked against the table's schema."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Iterable, Iterator

from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, DataFrameReader, DataFrameWriter, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError, nearest
from recsys_spark.lake import commits
from recsys_spark.lake.schemas import KEYS, PARTITIONS, SCHEMAS

Txn = tuple[str, int]  # (application id, version): Delta skips a write whose pair, or a later version, it has committed before

_LOCAL = re.compile("^file:/+")
_CATALOG = re.compile(r"[A-Za-z_][\w-]*\.[A-Za-z_][\w-]*")  # catalog.schema; anything else is a path or URL
# Runs name versions of tables, and `rerun` reads them by time travel: neither `vacuum` nor the clean-up of the log may take them away.
_KEPT = {"delta.deletedFileRetentionDuration": "interval 3650 days", "delta.logRetentionDuration": "interval 3650 days"}
_TXN_KEYS = ("spark.databricks.delta.write.txnAppId", "spark.databricks.delta.write.txnVersion")


class Lake:
    """The tables under one root: a folder, an object-store URL, or `catalog.schema`."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        self.root = root.rstrip("/")
        self.in_catalog = bool(_CATALOG.fullmatch(root))

    def where(self, name: str) -> str:
        """Path, URL or catalog.schema.name of a table. Raises ConfigError for a name that is no table."""
        if name not in SCHEMAS:
            raise ConfigError(f"table {name!r}", expected=f"one of {', '.join(sorted(SCHEMAS))}{nearest(name, SCHEMAS)}")
        return f"{self.root}.{name}" if self.in_catalog else f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        where = self.where(name)
        if self.in_catalog:
            return self.spark.catalog.tableExists(where)
        return DeltaTable.isDeltaTable(self.spark, where)

    def version(self, name: str) -> int:
        """The latest version. Raises TableError if the table is missing."""
        return int(self._table(name).history(1).select("version").collect()[0][0])

    def create(self, name: str) -> None:
        """Make the table, empty, if it is missing."""
        if not self.exists(name):
            self._first(name, self.spark.createDataFrame([], SCHEMAS[name]), txn=None)

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The rows as of `version` (None: the latest), columns in the contract's order. Raises TableError."""
        self._require(name)
        source: DataFrameReader = self.spark.read.format("delta")
        if version is not None:
            source = source.option("versionAsOf", version)
        try:
            rows = source.table(self.where(name)) if self.in_catalog else source.load(self.where(name))
        except PySparkException as problem:
            raise TableError(f"table {self.where(name)}, version {version}", found=_first_line(problem),
                             expected=f"a version up to {self.version(name)} whose files are still there",
                             remedy="rerun the step that wrote it; versions are lost to `vacuum`") from None
        self._check(name, rows.schema, remedy="point env.lake at another folder, or move this table away and rerun its step")
        return rows.select(*SCHEMAS[name].fieldNames())

    def outside(self, where: str, version: int) -> DataFrame:
        """The rows, as of `version`, of a table that is none of ours: a path, a URL or a name in the catalog. Raises TableError."""
        there = self.spark.catalog.tableExists(where) if _is_name(where) else DeltaTable.isDeltaTable(self.spark, where)
        if not there:
            raise TableError(f"table {where}", found="no such Delta table", expected="a path, a URL or a name in the catalog",
                             remedy="set `table` of the step to one that is there; a path has a slash in it")
        try:
            source = self.spark.read.format("delta").option("versionAsOf", version)
            return source.table(where) if _is_name(where) else source.load(where)
        except PySparkException as problem:
            raise TableError(f"table {where}, version {version}", found=_first_line(problem), expected="a version that is there",
                             remedy="set `version` of the step to one of `DESCRIBE HISTORY`") from None

    def folder(self, where: str) -> str:
        """Folder or URL of a table's files. Raises TableError where its columns have other names in them than in the table."""
        table = DeltaTable.forName(self.spark, where) if _is_name(where) else DeltaTable.forPath(self.spark, where)
        found = table.detail().select("location", "properties").collect()[0]
        mode = found["properties"].get("delta.columnMapping.mode", "none")
        if mode != "none":
            raise TableError(f"table {where}, delta.columnMapping.mode", found=mode, expected="none: its files are read as they are",
                             remedy="use export_shards, or write the rows to a table without column mapping")
        return _LOCAL.sub("/", re.sub("^s3[an]://", "s3://", found["location"]))

    def merge_new(self, name: str, rows: DataFrame, txn: Txn | None = None) -> int:
        """Insert the rows whose natural key the table lacks, in one commit; none when nothing is new. Returns the version.

        `rows` must hold a key at most once; they are computed twice unless the caller caches them. Makes a missing table.
        """
        new = self._fit(name, rows)
        if not self.exists(name):
            return self._first(name, new, txn)
        keys, before = list(KEYS[name]), self.version(name)
        if new.select(*keys).join(self.read(name, before).select(*keys), on=keys, how="left_anti").isEmpty():
            return before
        same = " AND ".join(f"stored.`{key}` = new.`{key}`" for key in keys)
        merge = self._table(name).alias("stored").merge(new.alias("new"), same).whenNotMatchedInsertAll()
        with self._txn(txn):
            commits.commit(self.where(name), merge.execute)
        return self.version(name)

    def replace(self, name: str, rows: DataFrame, where: dict[str, str], txn: Txn | None = None) -> int:
        """Replace the rows whose columns equal `where` by `rows` (which must all fit it), in one commit. Returns the version."""
        assert where, "replace needs a condition: an empty one would replace the whole table"
        new = self._fit(name, rows)
        self.create(name)
        condition = " AND ".join(f"`{column}` = '{_quoted(value)}'" for column, value in where.items())
        self._save(name, new.write.mode("overwrite").option("replaceWhere", condition), txn)
        return self.version(name)

    def runs(self) -> list[Run]:
        """The completed runs, oldest first."""
        if not self.exists(c.RUNS):
            return []
        return [_run_of(row) for row in self.read(c.RUNS).orderBy("started_at", c.RUN_ID).collect()]

    def add_run(self, run: Run) -> int:
        """Record a completed run; a record of the same run_id is replaced."""
        rows = self._recorded([run])
        if self.exists(c.RUNS) and self.read(c.RUNS).where(F.col(c.RUN_ID) == run.run_id).isEmpty():
            self._save(c.RUNS, rows.write.mode("append"), txn=None)  # a plain append takes a third of a replacement's time
            return self.version(c.RUNS)
        return self.replace(c.RUNS, rows, {c.RUN_ID: run.run_id})

    def add_runs(self, runs: Iterable[Run]) -> int:
        """Record those runs that are not there yet, in one commit."""
        return self.merge_new(c.RUNS, self._recorded(runs))

    def _recorded(self, runs: Iterable[Run]) -> DataFrame:
        plain = [run.model_dump() | {"config": json.dumps(run.config), "summary": json.dumps(run.summary)} for run in runs]
        return self.spark.createDataFrame([Row(**one) for one in plain], SCHEMAS[c.RUNS]).coalesce(1)

    def _first(self, name: str, rows: DataFrame, txn: Txn | None) -> int:
        """The commit that makes the table, rows included: of two that race, one fails and says so."""
        self._save(name, rows.write.mode("errorifexists").options(**_KEPT).partitionBy(*PARTITIONS.get(name, ())), txn)
        return 0

    def _save(self, name: str, writer: DataFrameWriter, txn: Txn | None) -> None:
        writer = writer.format("delta")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        where = self.where(name)
        commits.commit(where, lambda: writer.saveAsTable(where) if self.in_catalog else writer.save(where))

    def _fit(self, name: str, rows: DataFrame) -> DataFrame:
        self._check(name, rows.schema, remedy="this is a fault of the step that made the rows", thing="rows for table")
        return rows.select(*SCHEMAS[name].fieldNames())

    def _require(self, name: str) -> None:
        if not self.exists(name):
            raise TableError(f"table {self.where(name)}", found="no such Delta table", expected=f"the table {name!r}",
                             remedy="run the step that writes it first, or set env.lake to the lake that has it")

    def _table(self, name: str) -> DeltaTable:
        self._require(name)
        return (DeltaTable.forName if self.in_catalog else DeltaTable.forPath)(self.spark, self.where(name))

    def _check(self, name: str, found: StructType, remedy: str, thing: str = "table") -> None:
        """Names and types must be those of the contract; order and nullability may differ."""
        ours = {field.name: field.dataType.simpleString() for field in SCHEMAS[name]}
        theirs = {field.name: field.dataType.simpleString() for field in found}
        if ours == theirs:
            return
        missing, extra = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
        wrong = [n for n in ours if n in theirs and ours[n] != theirs[n]]
        facts = [f"no column {n}" for n in missing] + [f"unknown column {n} {theirs[n]}" for n in extra]
        wanted = [f"{n} {ours[n]}" for n in missing] + [f"no {n}" for n in extra] + [f"{n} {ours[n]}" for n in wrong]
        facts += [f"{n} {theirs[n]}" for n in wrong]
        raise TableError(f"{thing} {self.where(name)}", found=", ".join(facts), expected=", ".join(wanted), remedy=remedy)

    @contextlib.contextmanager
    def _txn(self, txn: Txn | None) -> Iterator[None]:
        """Delta takes the pair of a merge from the session, not from an option."""
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


def _is_name(where: str) -> bool:
    return "/" not in where


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0][:160]


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _run_of(row: Row) -> Run:
    plain: dict[str, Any] = row.asDict()
    return Run(**plain | {"config": json.loads(plain["config"]), "summary": json.loads(plain["summary"])})

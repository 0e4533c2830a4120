"""A Delta table at a version -> a shard set whose rows are the table's own files: what training reads, without an export.

Written are a manifest and the small side files; training then reads the table's Parquet files where they lie. The table has rows of
layout `pointwise` or `pairs`, and each of its files those of one part (it is partitioned by part, as `splits` is).
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import ShardSet, Table
from recsys_spark.core.errors import DataError, ShardError, TableError
from recsys_spark.etl import layouts, linked, side
from recsys_spark.stages import context, shard_set
from recsys_spark.stages.context import Context, Outcome, Ref
from recsys_spark.stages.shard_set import FOLDER

Named = Literal["user_idx", "item_idx", "label", "part"]


class Job(context.Job):
    stage: Literal["link_shards"] = "link_shards"
    source: Ref  # a prepare step: its `splits`, and its index of users and items
    table: str = ""  # another Delta table with these indices: a path, a URL or a name in the catalog; empty: `splits`
    version: int | None = Field(None, ge=0)  # of that table
    columns: dict[Named, str] = Field(default_factory=dict)  # their names in that table, where they differ; label: `value`
    layout: Literal["pointwise", "pairs"] = "pointwise"
    label: layouts.Label = "value"  # one: that it happened, whatever its value
    num_workers: int = Field(1, ge=1)  # the most ranks that will read the set; refused now if it has not a row group for each
    virtual_shards: int = Field(64, ge=1, le=4096)

    @model_validator(mode="after")
    def _table_fits(self) -> Job:
        if bool(self.table) != (self.version is not None):
            raise ValueError("table and version go together: the rows must be the same whenever the step runs")
        if self.columns and not self.table:
            raise ValueError("no columns: those of `splits` are known")
        if self.virtual_shards % self.num_workers:
            raise ValueError(f"num_workers {self.num_workers} must divide virtual_shards {self.virtual_shards}")
        return self

    @property
    def stored(self) -> dict[str, str]:
        """Columns of the set, and the part -> of the table. A label of one has none."""
        names = {c.USER_IDX: c.USER_IDX, c.ITEM_IDX: c.ITEM_IDX, c.LABEL: c.VALUE, c.PART: c.PART} | self.columns
        if self.layout == "pairs" or self.label == "one":
            del names[c.LABEL]
        return names


def run(ctx: Context, job: Job) -> Outcome:
    """Raises TableError for a table that cannot be read as it lies, ShardError for too few row groups, DataError without training rows."""
    began = time.monotonic()
    prepared = ctx.inputs[job.source].summary
    num_users, num_items = int(prepared["num_users"]), int(prepared["num_items"])
    table, version, rows = _rows(ctx, job)
    events = linked.renamed(rows, job.stored, table)
    found = linked.facts(events, table)
    linked.check(found, table, {c.USER_IDX: num_users, c.ITEM_IDX: num_items})
    layout = layouts.LAYOUTS[job.layout]
    location = ctx.lake.folder(table)
    stored = {name: theirs for name, theirs in job.stored.items() if name != c.PART}
    parts = linked.parts(found, location, table, layout.parts, list(stored.values()), job.virtual_shards)
    events = events.select(F.col(c.USER_IDX).cast("int").alias(c.USER_IDX), F.col(c.ITEM_IDX).cast("int").alias(c.ITEM_IDX), c.PART)
    _enough(ctx, job, table, parts[c.TRAIN].rows, sum(len(file.row_groups) for file in parts[c.TRAIN].files), events)

    with artifacts.new_folder(ctx.run_dir / FOLDER) as folder:
        sides = {"seen": _pairs(events, *c.BEFORE[c.VALID]), "targets": _pairs(events, c.VALID)}
        csr = side.write(sides, str(folder), num_users=num_users, events=sum(fact["rows"] for fact in found))
        made = shard_set.finish(folder, ShardSet(
            layout=job.layout, columns=layout.columns, parts=parts, virtual_shards=job.virtual_shards, num_users=num_users,
            num_items=num_items, side=csr, statistics=linked.statistics(found) if layout.label else {}, split=str(prepared["split"]),
            table_versions=dict(ctx.read_versions), table=Table(location=location, version=version, columns=stored)))
    return shard_set.outcome(ctx, job, job.source, made, began, table=table, version=version)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """What is linked; of a table of its own the columns too. Raises TableError where it is not there, or has other columns."""
    table, version, rows = _rows(ctx, job)
    linked.renamed(rows, job.stored, table)
    return {"layout": job.layout, "table": table, "version": version, "folder": ctx.lake.folder(table)}


def _rows(ctx: Context, job: Job) -> tuple[str, int, DataFrame]:
    """(where the table lies, its version, its rows)."""
    if job.version is not None:
        ctx.read_versions[job.table] = job.version
        return job.table, job.version, ctx.lake.outside(job.table, job.version)
    rows = ctx.read(c.SPLITS, job.source).where(F.col(c.SPLIT) == ctx.inputs[job.source].summary["split"])
    return ctx.lake.where(c.SPLITS), ctx.read_versions[c.SPLITS], rows


def _pairs(events: DataFrame, *parts: str) -> DataFrame:
    return events.where(F.col(c.PART).isin(*parts)).select(c.USER_IDX, c.ITEM_IDX)


def _enough(ctx: Context, job: Job, table: str, rows: int, row_groups: int, events: DataFrame) -> None:
    """Something to train on for each worker; of pairs, each once."""
    if not rows:
        raise DataError(f"table {table}, part {c.TRAIN}", found="no row", expected="at least one",
                        remedy=f"check the rule of step {job.source}, or the column of the part")
    if min(row_groups, job.virtual_shards) < job.num_workers:
        raise ShardError(f"shard set of {ctx.run_id}", found=f"{row_groups} row groups in the training files of {table}",
                         expected=f"one for each of {job.num_workers} workers",
                         remedy=f"lower num_workers, write the table in more files, or {linked.REMEDY}")
    if job.layout == "pairs" and (twice := rows - _pairs(events, c.TRAIN).distinct().count()):
        raise TableError(f"table {table}, part {c.TRAIN}", found=f"{twice} pairs that are there before", expected="each pair once",
                         remedy=linked.REMEDY)

"""A Delta table at a version -> a shard set whose rows are the table's own files, without an
export.

Only a manifest and the small side files are written; training reads the table's Parquet files in
place. The table has rows of layout `pointwise` or `pairs`, and each of its files has rows of one
part (it is partitioned by part, as `splits` is).
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import ShardSet, Table
from recsys_spark.core.errors import DataError, ShardError, TableError
from recsys_spark.etl import layout as layouts
from recsys_spark.etl.shards import linked, side
from recsys_spark.lake import outside
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.stages.bridge import shard_set
from recsys_spark.stages.bridge.shard_set import FOLDER

Named = Literal["query_idx", "item_idx", "label", "part"]


class Job(context.Job):
    stage: Literal["link_shards"] = "link_shards"
    # its `splits`, and its index of users and items
    source: Annotated[str, StepOf("prepare")]
    # another Delta table with the same indices: a path, a URL or a name in the catalog; empty:
    # `splits`
    table: str = ""
    version: int | None = Field(None, ge=0)  # version of that table
    # Column names in that table, where they differ from ours; label: `value`
    columns: dict[Named, str] = Field(default_factory=dict)
    layout: Literal["pointwise", "pairs"] = "pointwise"
    label: layouts.Label = "value"  # one: the label is 1 for every event
    # The most ranks that will read the set; an error if there are fewer row groups
    num_workers: int = Field(1, ge=1)
    virtual_shards: int = Field(64, ge=1, le=4096)

    @model_validator(mode="after")
    def _table_fits(self) -> Job:
        if bool(self.table) != (self.version is not None):
            raise ValueError(
                "table and version go together: the rows must be the same whenever the step runs"
            )
        if self.columns and not self.table:
            raise ValueError("no columns: those of `splits` are known")
        if self.virtual_shards % self.num_workers:
            raise ValueError(
                f"num_workers {self.num_workers} must divide virtual_shards {self.virtual_shards}"
            )
        return self

    @property
    def stored(self) -> dict[str, str]:
        """{column of the set, or `part`: column of the table}. A label of one has no column."""
        names = {
            c.QUERY_IDX: c.QUERY_IDX,
            c.ITEM_IDX: c.ITEM_IDX,
            c.LABEL: c.VALUE,
            c.PART: c.PART,
        } | self.columns
        if self.layout == "pairs" or self.label == "one":
            del names[c.LABEL]
        return names


def run(ctx: Context, job: Job) -> Outcome:
    """Raises TableError for a table that cannot be read in place, ShardError for too few row
    groups, DataError without training rows.
    """
    began = time.monotonic()
    prepared = ctx.inputs[job.source].summary
    num_users, num_items = int(prepared["num_users"]), int(prepared["num_items"])
    table, version, rows = _rows(ctx, job)
    events = linked.renamed(rows, job.stored, table)
    file_facts = linked.facts(events, table)
    linked.check(file_facts, table, {c.QUERY_IDX: num_users, c.ITEM_IDX: num_items})
    layout = layouts.of(job.layout, job.label)
    location = outside.folder(ctx.spark, table)
    stored = {name: column for name, column in job.stored.items() if name != c.PART}
    parts = linked.parts(
        file_facts, location, table, layout.parts, list(stored.values()), job.virtual_shards
    )
    events = events.select(
        F.col(c.QUERY_IDX).cast("int").alias(c.QUERY_IDX),
        F.col(c.ITEM_IDX).cast("int").alias(c.ITEM_IDX),
        c.PART,
    )
    _enough(
        ctx,
        job,
        table,
        parts[c.TRAIN].rows,
        sum(len(file.row_groups) for file in parts[c.TRAIN].files),
        events,
    )

    with artifacts.new_folder(ctx.run_dir / FOLDER) as folder:
        sides = {
            "seen": side.Side(_pairs(events, *c.BEFORE[c.VALID])),
            "targets": side.Side(_pairs(events, c.VALID)),
        }
        num_events = sum(fact["rows"] for fact in file_facts)
        csr = side.write(sides, str(folder), num_users=num_users, events=num_events)
        written = shard_set.finish(
            folder,
            ShardSet(
                layout=job.layout,
                columns=layout.columns,
                parts=parts,
                virtual_shards=job.virtual_shards,
                num_users=num_users,
                num_items=num_items,
                side=csr,
                statistics=linked.statistics(file_facts) if layout.statistics_of else {},
                split=str(prepared["split"]),
                table_versions=dict(ctx.read_versions),
                table=Table(location=location, version=version, columns=stored),
            ),
        )
    return shard_set.outcome(ctx, job, job.source, written, began, table=table, version=version)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """The table to link, its version and its folder. Raises TableError where the table is missing
    or has other columns.
    """
    table, version, rows = _rows(ctx, job)
    linked.renamed(rows, job.stored, table)
    return {
        "layout": job.layout,
        "table": table,
        "version": version,
        "folder": outside.folder(ctx.spark, table),
    }


def _rows(ctx: Context, job: Job) -> tuple[str, int, DataFrame]:
    """(name or location of the table, its version, its rows)."""
    if job.version is not None:
        ctx.read_versions[job.table] = job.version
        return job.table, job.version, outside.read(ctx.spark, job.table, job.version)
    rows = ctx.read(c.SPLITS, job.source).where(
        F.col(c.SPLIT) == ctx.inputs[job.source].summary["split"]
    )
    return ctx.lake.where(c.SPLITS), ctx.read_versions[c.SPLITS], rows


def _pairs(events: DataFrame, *parts: str) -> DataFrame:
    return events.where(F.col(c.PART).isin(*parts)).select(c.QUERY_IDX, c.ITEM_IDX)


def _enough(
    ctx: Context, job: Job, table: str, rows: int, row_groups: int, events: DataFrame
) -> None:
    """Checks that every worker has training rows, and that pairs occur once each."""
    if not rows:
        raise DataError(
            f"table {table}, part {c.TRAIN}",
            found="no row",
            expected="at least one",
            remedy=f"check the rule of step {job.source}, or the column of the part",
        )
    if min(row_groups, job.virtual_shards) < job.num_workers:
        raise ShardError(
            f"shard set of {ctx.run_id}",
            found=f"{row_groups} row groups in the training files of {table}",
            expected=f"one for each of {job.num_workers} workers",
            remedy=f"lower num_workers, write the table in more files, or {linked.REMEDY}",
        )
    if job.layout == "pairs" and (twice := rows - _pairs(events, c.TRAIN).distinct().count()):
        raise TableError(
            f"table {table}, part {c.TRAIN}",
            found=f"{twice} pairs that are there before",
            expected="each pair once",
            remedy=linked.REMEDY,
        )

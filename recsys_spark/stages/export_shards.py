"""`splits` -> a shard set in the run's folder: what training reads.

The set is written in a temporary folder and takes its name when the manifest is in it, so a killed export leaves nothing that
could be taken for a set, and a rerun leaves one.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import ConfigError, ShardError
from recsys_spark.etl import features, layouts, shards, side
from recsys_spark.etl.features import Entities, Features
from recsys_spark.stages import context, shard_set
from recsys_spark.stages.context import Context, Outcome, Ref
from recsys_spark.stages.shard_set import FOLDER


class Job(context.Job):
    stage: Literal["export_shards"] = "export_shards"
    source: Ref  # a prepare step
    layout: layouts.Name = "pointwise"
    label: layouts.Label = "value"  # one: that it happened, whatever its value; pairs have no label
    by: layouts.By = "user"  # layout `profile` with values: whose vectors the rows are
    fit: Literal["train", "train+valid"] = "train"  # events that are training rows; with valid among them nothing is left to validate on
    positive_min: float | None = None  # events of a lower value make no row (they still count as seen)
    num_workers: int = Field(1, ge=1)  # the most ranks that will read the set; refused now if it cannot feed them
    row_group_rows: int | None = Field(None, ge=1)  # at most; None: the layout's own
    virtual_shards: int = Field(64, ge=1, le=4096)
    features: Features = Features()  # of users, items and events; those of events are columns of layout pointwise

    @model_validator(mode="after")
    def _workers_divide(self) -> Job:
        if self.virtual_shards % self.num_workers:
            raise ValueError(f"num_workers {self.num_workers} must divide virtual_shards {self.virtual_shards}")
        if self.features.event and self.layout != "pointwise":
            raise ValueError(f"no features.event: rows of layout {self.layout} are no single events")
        if self.by == "item" and (self.layout != "profile" or self.label != "value"):
            raise ValueError("by: item is for layout profile with label value")
        return self


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ShardError when there are fewer rows than workers or no room, DataError when no training row is left."""
    began = time.monotonic()
    prepared = ctx.inputs[job.source].summary
    entities = _entities(ctx, job)
    events, fields = features.of_events(_events(ctx, job), job.features.event)
    positive = events if job.positive_min is None else events.where(F.col(c.VALUE) >= job.positive_min)
    layout = _layout(job)
    layout = replace(layout, columns=(*layout.columns, *features.columns(fields)))
    num_users, num_items = int(prepared["num_users"]), int(prepared["num_items"])
    for left_over in ctx.run_dir.glob(f".tmp-*{FOLDER}-*"):
        shutil.rmtree(left_over)

    with artifacts.new_folder(ctx.run_dir / FOLDER) as folder:
        made = {part: layouts.rows(layout, positive, part, job.label) for part in layout.parts}
        parts, statistics = shards.write(made, layout, str(folder), seed=ctx.seed, virtual_shards=job.virtual_shards,
                                         row_group_rows=job.row_group_rows, entries=int(prepared["rows"]))
        if len(parts[c.TRAIN].files) < job.num_workers:
            raise ShardError(f"shard set of {ctx.run_id}", found=f"{parts[c.TRAIN].rows} training rows",
                             expected=f"one for each of {job.num_workers} workers", remedy="lower num_workers, or export more data")
        # What is known of a user when valid is ranked: of users held out whole, their fold-in.
        sides = {"seen": _pairs(events.where(F.col(c.PART).isin(*c.BEFORE[c.VALID])))}
        if job.fit == "train":
            sides["targets"] = _pairs(_of(positive, c.VALID))
        csr = side.write(sides, str(folder), num_users=num_users, events=int(prepared["rows"]))
        known = [one for of in entities for one in features.write(of, getattr(job.features, of.side), _of(events, c.TRAIN), str(folder))]
        whole = shard_set.finish(folder, ShardSet(
            layout=job.layout, by=layout.by, columns=layout.columns, parts=parts, virtual_shards=job.virtual_shards, num_users=num_users,
            num_items=num_items, side=csr, statistics=statistics, features=(*known, *fields), split=str(prepared["split"]),
            table_versions=dict(ctx.read_versions)))
    return shard_set.outcome(ctx, job, job.source, whole, began, row_group_rows=parts[c.TRAIN].files[0].row_groups[0])


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Rows, files and bytes to expect, before `positive_min` and without fields. Raises ConfigError for a field that is not there."""
    _entities(ctx, job)
    prepared = ctx.inputs[job.source].summary
    layout = _layout(job)
    ragged = any(column.shape for column in layout.columns)
    profiles = int(prepared[f"{layout.by}s"]) * len(layout.parts)
    train = sum(int(prepared.get(part, 0)) for part in c.FITTED_ON[job.fit])
    valid = int(prepared[c.VALID]) if c.VALID in layout.parts else 0
    rows = profiles if ragged else train + valid
    entries = train * len(layout.parts) + valid * layout.held if ragged else 0
    side_bytes = 2 * 8 * int(prepared["num_users"]) + 4 * (int(prepared[c.TRAIN]) + int(prepared[c.VALID]))
    group = shards.group_rows(rows, job.virtual_shards, job.row_group_rows or layout.row_group_rows)
    return {
        "layout": job.layout, "rows": rows, "files": len(layout.parts) * min(rows, job.virtual_shards), "row_group_rows": group,
        "row_groups": job.virtual_shards * math.ceil(rows / job.virtual_shards / group),
        "bytes": int(rows * layout.row_bytes + entries * layout.entry_bytes + side_bytes),
    }


def _entities(ctx: Context, job: Job) -> list[Entities]:
    """Users and items, as far as fields of theirs are asked for. Raises ConfigError for a field or table that is not there."""
    found = []
    sides: tuple[tuple[Literal["user", "item"], str, str], ...] = (("user", c.USERS, c.USER_INDEX), ("item", c.ITEMS, c.ITEM_INDEX))
    for side_name, table, index in sides:
        wanted, thing = getattr(job.features, side_name), f"step {ctx.step}, features.{side_name}"
        if not wanted:
            continue
        if table not in ctx.inputs[job.source].output_versions:
            raise ConfigError(thing, found=", ".join(one.name for one in wanted), expected=f"none, for the data set has no table {table}")
        rows = ctx.read(table, job.source)
        features.check(rows, wanted, thing)
        count = int(ctx.inputs[job.source].summary[f"num_{table}"])
        found.append(Entities(side_name, rows, ctx.read(index, job.source), count))
    return found


def _events(ctx: Context, job: Job) -> DataFrame:
    name = ctx.inputs[job.source].summary["split"]
    events = ctx.read(c.SPLITS, job.source).where(F.col(c.SPLIT) == name)
    part = F.when(F.col(c.PART).isin(*c.FITTED_ON[job.fit]), c.TRAIN).otherwise(F.col(c.PART))
    return events.select(c.USER_IDX, c.ITEM_IDX, c.TS, c.VALUE, part.alias(c.PART))


def _layout(job: Job) -> layouts.Layout:
    layout = layouts.of(job.layout, job.label, job.by)
    return layout if job.fit == "train" else replace(layout, parts=(c.TRAIN,))


def _of(events: DataFrame, part: str) -> DataFrame:
    return events.where(F.col(c.PART) == part)


def _pairs(events: DataFrame) -> DataFrame:
    return events.select(c.USER_IDX, c.ITEM_IDX)

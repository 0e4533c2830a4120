"""`splits` -> a shard set in the run's folder, for training to read.

The set is written to a temporary folder that is renamed once it has its manifest. A killed export
therefore leaves no incomplete set, and a rerun leaves one complete set.
"""

from __future__ import annotations

import math
import shutil
import time
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import ConfigError, ShardError, nearest
from recsys_spark.etl import layout as layouts
from recsys_spark.etl.shards import event_fields, features, side
from recsys_spark.etl.shards import export as shards
from recsys_spark.etl.shards.features import Entities, Features
from recsys_spark.pipeline import context, lineage
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.stages.bridge import shard_set
from recsys_spark.stages.bridge.entities import of_side
from recsys_spark.stages.bridge.shard_set import FOLDER


class Job(context.Job):
    stage: Literal["export_shards"] = "export_shards"
    source: Annotated[str, StepOf("prepare")]
    layout: str = "pointwise"  # a file of etl/layouts/
    label: layouts.Label = "value"  # one: the label is 1 for every event; pairs have no label
    by: layouts.By = "user"  # layout `profile` with values: the entity that has a row
    fit: Literal["train", "train+valid"] = (
        # events that become training rows; with valid included there is no validation part
        "train"
    )
    positive_min: float | None = (
        None  # events with a lower value become no row (they still count as seen)
    )
    # The most ranks that will read the set; an error if there are fewer training rows
    num_workers: int = Field(1, ge=1)
    row_group_rows: int | None = Field(None, ge=1)  # maximum; None: that of the layout
    virtual_shards: int = Field(64, ge=1, le=4096)
    # Layout sequence: events that a row predicts, at most; None: that of the layout. A model reads
    # as many events or more.
    row_targets: int | None = Field(None, ge=1, le=65535, exclude_if=lambda number: number is None)
    # Layout sequence: whether models are told how long ago an event was
    ages: bool = Field(False, exclude_if=lambda told: not told)
    # Fields of users, items and events; event fields are columns of layout pointwise
    features: Features = Features()

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        layout_names = layouts.names()
        if layout not in layout_names:
            raise ValueError(f"one of {', '.join(layout_names)}{nearest(layout, layout_names)}")
        return layout

    @model_validator(mode="after")
    def _workers_divide(self) -> Job:
        if self.virtual_shards % self.num_workers:
            raise ValueError(
                f"num_workers {self.num_workers} must divide virtual_shards {self.virtual_shards}"
            )
        for name in ("row_targets", "ages"):
            if getattr(self, name) and not layouts.find(self.layout).whole_histories:
                raise ValueError(
                    f"no {name}: it is a setting of layout sequence, not {self.layout}"
                )
        layout = _layout(self)
        if layout.whole_histories and self.positive_min is not None:
            raise ValueError(f"no positive_min: rows of layout {self.layout} are whole histories")
        if self.features.event and not layout.event_fields:
            raise ValueError(
                f"no features.event: rows of layout {self.layout} are no single events"
            )
        if wrong := layout.check():
            raise ValueError(wrong)
        return self


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ShardError when there are fewer rows than workers or no room, DataError when no
    training row is left.
    """
    began = time.monotonic()
    prepared = ctx.inputs[job.source].summary
    entities = _entities(ctx, job)
    events, fields = event_fields.of_events(_events(ctx, job), job.features.event)
    positive = (
        events if job.positive_min is None else events.where(F.col(c.VALUE) >= job.positive_min)
    )
    layout = _layout(job)
    columns = (*layout.columns, *event_fields.columns(fields))
    num_users, num_items = int(prepared["num_users"]), int(prepared["num_items"])
    for left_over in ctx.run_dir.glob(f".tmp-*{FOLDER}-*"):
        shutil.rmtree(left_over)

    with artifacts.new_folder(ctx.run_dir / FOLDER) as folder:
        rows = {part: layout.rows(positive, part) for part in _parts(job, layout)}
        parts, statistics = shards.write(
            rows,
            columns,
            str(folder),
            seed=ctx.seed,
            virtual_shards=job.virtual_shards,
            row_group_rows=job.row_group_rows or layout.row_group_rows,
            statistics_of=layout.statistics_of,
            events=int(prepared["rows"]),
        )
        if len(parts[c.TRAIN].files) < job.num_workers:
            raise ShardError(
                f"shard set of {ctx.run_id}",
                found=f"{parts[c.TRAIN].rows} training rows",
                expected=f"one for each of {job.num_workers} workers",
                remedy="lower num_workers, or export more data",
            )
        # Events seen before valid is ranked: for users held out whole, their fold-in.
        sides = {"seen": side.Side(_pairs(events.where(F.col(c.PART).isin(*c.BEFORE[c.VALID]))))}
        if job.fit == "train":
            sides["targets"] = side.Side(_pairs(_of(positive, c.VALID)))
        sides |= layout.sides(events)
        csr = side.write(sides, str(folder), num_users=num_users, events=int(prepared["rows"]))
        entity_fields = [
            field
            for entity in entities
            for field in features.write(
                entity, getattr(job.features, entity.side), _of(events, c.TRAIN), str(folder)
            )
        ]
        whole = shard_set.finish(
            folder,
            ShardSet(
                layout=job.layout,
                by=job.by,
                columns=columns,
                order="lanes" if layout.num_lanes else "shuffled",
                num_lanes=layout.num_lanes,
                parts=parts,
                virtual_shards=job.virtual_shards,
                num_users=num_users,
                num_items=num_items,
                side=csr,
                statistics={**statistics, **layout.statistics},
                features=(*entity_fields, *fields),
                split=str(prepared["split"]),
                table_versions=dict(ctx.read_versions),
            ),
        )
    return shard_set.outcome(
        ctx, job, job.source, whole, began, row_group_rows=parts[c.TRAIN].files[0].row_groups[0]
    )


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Expected rows, files and bytes, before `positive_min` and without fields. Raises ConfigError
    for a missing field.
    """
    _entities(ctx, job)
    prepared = ctx.inputs[job.source].summary
    layout = _layout(job)
    train = sum(int(prepared.get(part, 0)) for part in c.FITTED_ON[job.fit])
    parts = _parts(job, layout)
    rows, entries = layout.estimate(prepared, parts, train, int(prepared[c.VALID]))
    side_bytes = 2 * 8 * int(prepared["num_users"]) + 4 * (
        int(prepared[c.TRAIN]) + int(prepared[c.VALID])
    )
    group = shards.group_rows(rows, job.virtual_shards, job.row_group_rows or layout.row_group_rows)
    return {
        "layout": job.layout,
        "rows": rows,
        "files": len(parts) * min(rows, job.virtual_shards),
        "row_group_rows": group,
        "row_groups": job.virtual_shards * math.ceil(rows / job.virtual_shards / group),
        "bytes": int(rows * layout.row_bytes + entries * layout.entry_bytes + side_bytes),
    }


def _layout(job: Job) -> layouts.Layout:
    return layouts.of(job.layout, job.label, job.by, job.row_targets, job.ages)


def _parts(job: Job, layout: layouts.Layout) -> tuple[str, ...]:
    """Nothing is left to validate on where validation events are training rows."""
    return layout.parts if job.fit == "train" else (c.TRAIN,)


def _entities(ctx: Context, job: Job) -> list[Entities]:
    """Users and items, those for which fields are configured. Raises ConfigError for a missing
    field or table.
    """
    entities = []
    sides: tuple[tuple[Literal["user", "item"], str], ...] = (("user", c.USERS), ("item", c.ITEMS))
    for side_name, table in sides:
        requested, thing = (
            getattr(job.features, side_name),
            f"step {ctx.step}, features.{side_name}",
        )
        if not requested:
            continue
        if table not in ctx.inputs[job.source].output_versions:
            raise ConfigError(
                thing,
                found=", ".join(field.name for field in requested),
                expected=f"none, for the data set has no table {table}",
            )
        rows, index = of_side(ctx, side_name, job.source)
        features.check(rows, requested, thing)
        count = int(ctx.inputs[job.source].summary[f"num_{table}"])
        entities.append(Entities(side_name, rows, index, count))
    return entities


def _events(ctx: Context, job: Job) -> DataFrame:
    events = lineage.split_rows(ctx, job.source)
    part = F.when(F.col(c.PART).isin(*c.FITTED_ON[job.fit]), c.TRAIN).otherwise(F.col(c.PART))
    return events.withColumn(c.PART, part)


def _of(events: DataFrame, part: str) -> DataFrame:
    return events.where(F.col(c.PART) == part)


def _pairs(events: DataFrame) -> DataFrame:
    return events.select(c.QUERY_IDX, c.ITEM_IDX)

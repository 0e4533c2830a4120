"""How good each scored run is: every metric with its 95 % interval, over all users and by slice, into `metrics`.

Rules: users with an event in the evaluated part are the units. A ranking without a list for such a user earns 0; a list keeps its
places, so an item that is repeated, unknown or scored NaN takes a place and cannot hit; a row without a finite prediction is
charged as if the mean of the training part had been predicted. All of these are counted, and the counts are in the summary.
The replicas of every value are kept in `replicates.parquet` in the run's folder (metrics.paired): runs can be compared later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.errors import DataError
from recsys_spark.etl.evaluation import Engine
from recsys_spark.etl.evaluation_columnar import Columnar
from recsys_spark.etl.evaluation_spark import Distributed
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.metrics import names, paired, slices
from recsys_spark.metrics.blocks import Settings
from recsys_spark.metrics.names import CLICK, NEW_ITEMS, RATING, SAMPLED
from recsys_spark.metrics.paired import Key
from recsys_spark.metrics.partials import Partial
from recsys_spark.report.results import FIELDS
from recsys_spark.stages import context, evaluated
from recsys_spark.stages.context import Context, Outcome, Ref, Refs
from recsys_spark.stages.evaluated import Scored

logger = log.get(__name__)
AT_ONCE = 2  # runs measured side by side: while one waits for Spark the other computes
OF = "of_run_id"


class Job(context.Job):
    stage: Literal["evaluate"] = "evaluate"
    source: Ref  # the prepare step whose split is evaluated on
    of: Refs = Field(min_length=1)  # score steps
    ks: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((10, 20), min_length=1)
    part: Literal["valid", "test"] = "test"
    metrics: tuple[str, ...] = ()  # names of metrics.names; empty: all that apply
    user_fields: tuple[str, ...] = ()  # users are measured apart by their values
    item_fields: tuple[str, ...] = ()  # items to be found, too; and the fields in which diversity is measured
    replicas: int = Field(1000, ge=100, le=10_000)  # of the bootstrap
    engine: Literal["auto", "columnar", "spark"] = "auto"  # auto: columnar up to columnar_rows
    columnar_rows: int = Field(10_000_000, ge=0)  # events and scored rows of one run: about 1 GB here and in Spark's driver

    @field_validator("ks")
    @classmethod
    def _different(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(ks)) != len(ks):
            raise ValueError("cut-offs must differ")
        return ks

    @field_validator("metrics")
    @classmethod
    def _known(cls, chosen: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := names.unknown(chosen):
            raise ValueError(wrong)
        return chosen


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Checks what can be checked without work; rows of the evaluated part, and the engine that would measure them."""
    tasks = evaluated.tasks(ctx, job)
    rows = evaluated.events(ctx, job).where(F.col(c.PART) == job.part).count()
    return {"rows": rows, "models": len(tasks), "engine": _engine(ctx, job)}


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError and DataError for runs that do not belong together, and DataError for an empty part."""
    scored = evaluated.scored(ctx, job)
    source, engine_name = evaluated.source(ctx, job), _engine(ctx, job)
    engine: Engine = (Columnar if engine_name == "columnar" else Distributed)(source)
    try:
        facts = engine.facts
        if not facts.num_users:
            raise DataError(f"split {evaluated.split(ctx, job)!r}, part {job.part}", found="no events", expected="at least one",
                            remedy=f"choose another part, or check the fractions and filters of {job.source}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            measured = list(pool.map(lambda one: _measure(ctx, job, engine, one), scored))
    finally:
        engine.close()
    both = list(zip(scored, measured, strict=True))
    paired.write(ctx.run_dir / paired.FILE,
                 {Key(one.run.run_id, one.task, label): made for one, partial in both for label, made in partial.slices.items()})
    rows = [row for one, partial in both for row in _rows(ctx, job, one, partial)]
    table = pa.table({name: [row[name] for row in rows] for name in SCHEMAS[c.METRICS].fieldNames()})
    version = ctx.lake.replace(c.METRICS, ctx.spark.createDataFrame(table, SCHEMAS[c.METRICS]).coalesce(1), {c.RUN_ID: ctx.run_id})
    found = {one.step: partial.odd for one, partial in both}
    for step, counts in found.items():
        if any(counts.values()):
            logger.warning(log.fields(step=step, **{name: count for name, count in counts.items() if count}))
    summary = {
        "split": evaluated.split(ctx, job), "part": job.part, "users": facts.num_users, "rows": facts.num_rows,
        "rows_with_unseen_item": facts.unseen_rows, "activity_bounds": list(facts.users.bounds), "data": evaluated.about(ctx, job),
        "replicas": job.replicas, "ks": list(job.ks), "engine": engine_name,
        "results": [{name: row[name] for name in (OF, *FIELDS)} for row in rows if row[c.SLICE] == slices.ALL], "found": found,
    }
    return Outcome({c.METRICS: version} | evaluated.versions(ctx, job), summary=summary)


def _engine(ctx: Context, job: Job) -> str:
    if job.engine != "auto":
        return job.engine
    return "columnar" if evaluated.num_rows(ctx, job) <= job.columnar_rows else "spark"


def _measure(ctx: Context, job: Job, engine: Engine, one: Scored) -> Partial:
    facts = engine.facts
    wanted = tuple(name for name in names.of_task(one.task, job.metrics) if job.item_fields or name not in names.ITEM_FIELDS)
    settings = Settings(job.ks, seeds.derive(ctx.seed, "intervals"), job.replicas, wanted, facts.users, facts.num_users, facts.catalogue,
                        facts.low, facts.high)
    if one.task == RATING:
        return engine.rating(one.rows, settings)
    if one.task == CLICK:
        if not facts.binary:
            raise DataError(f"split {evaluated.split(ctx, job)!r}, part {job.part}", found="values other than 0 and 1",
                            expected="clicks, for " + one.step, remedy="evaluate a split of impressions, or score ratings")
        return engine.click(one.rows, settings)
    entries = one.rows.where(F.col(c.QUERY_KIND) == "user")
    if one.task in (SAMPLED, NEW_ITEMS):
        return engine.candidates(entries, settings)
    return engine.ranking(entries.where(F.col(c.RANK) <= max(job.ks)), settings)


def _rows(ctx: Context, job: Job, one: Scored, partial: Partial) -> Iterator[dict[str, Any]]:
    """Of `metrics`."""
    for label, made in partial.slices.items():
        for metric, at in made.intervals().items():
            name, _, k = metric.partition("@")
            value, low, high = (None if math.isnan(x) else x for x in (at.value, at.low, at.high))
            yield {c.RUN_ID: ctx.run_id, OF: one.run.run_id, c.MODEL: one.model, c.SPLIT: evaluated.split(ctx, job), c.SEED: one.run.seed,
                   c.TASK: one.task, c.METRIC: name, c.K: int(k or 0), c.SLICE: label, c.VALUE: value, c.LOW: low, c.HIGH: high, c.N: at.n}

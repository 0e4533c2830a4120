"""Evaluates scored runs: every metric with its 95 % interval, over all users and by slice, into
`metrics`.

Rules: users with an event in the evaluated part are the units. A ranking without a list for such a
user earns 0; a list keeps its places, so an item that is repeated, unknown or scored NaN takes a
place and cannot hit; a row without a finite prediction is charged as if the mean of the training
part had been predicted. All of these are counted, and the counts are in the summary. The replicas
of every value are kept in `replicates.parquet` in the run's folder (metrics.paired): runs can be
compared later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.errors import DataError
from recsys_spark.etl.evaluation.columnar import Columnar
from recsys_spark.etl.evaluation.engine import Engine
from recsys_spark.etl.evaluation.spark import Distributed
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.metrics import names, paired, slices
from recsys_spark.metrics.blocks import Settings
from recsys_spark.metrics.paired import Key
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context, Outcome
from recsys_spark.report.results import FIELDS
from recsys_spark.stages.results import evaluated, official
from recsys_spark.stages.results.evaluated import Scored
from recsys_spark.stages.results.evaluated import check_steps as check_steps
from recsys_spark.stages.results.evaluation import Evaluation

logger = log.get(__name__)
AT_ONCE = 2  # runs measured concurrently: while one waits for Spark the other computes
OF = "of_run_id"


class Job(Evaluation):
    stage: Literal["evaluate"] = "evaluate"
    replicas: int = Field(1000, ge=100, le=10_000)  # bootstrap replicas
    engine: Literal["auto", "columnar", "spark"] = "auto"  # auto: columnar up to columnar_rows
    # Limit on events plus scored rows of one run: about 1 GB here and in Spark's driver
    columnar_rows: int = Field(10_000_000, ge=0)
    # Also by the rules of a challenge's organisers (metrics/challenge)
    challenge: Literal["", "clickouts", "engagements"] = ""


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Checks the configuration without measuring; returns the rows of the evaluated part and the
    engine that would measure them.
    """
    tasks = evaluated.tasks(ctx, job)
    rows = evaluated.events(ctx, job).where(F.col(c.PART) == job.part).count()
    return {"rows": rows, "models": len(tasks), "engine": _engine(ctx, job)}


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError and DataError for runs that do not belong together, and DataError for an
    empty part.
    """
    scored = evaluated.scored(ctx, job)
    source, engine_name = evaluated.source(ctx, job), _engine(ctx, job)
    engine: Engine = (Columnar if engine_name == "columnar" else Distributed)(source)
    try:
        facts = engine.facts
        if not facts.num_users:
            raise DataError(
                f"split {evaluated.split(ctx, job)!r}, part {job.part}",
                found="no events",
                expected="at least one",
                remedy=f"choose another part, or check the fractions and filters of {job.source}",
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            measured = list(
                pool.map(lambda scored_run: _measure(ctx, job, engine, scored_run), scored)
            )
    finally:
        engine.close()
    pairs = list(zip(scored, measured, strict=True))
    if job.challenge:
        seed = seeds.derive(ctx.seed, "intervals")
        of = {"clickouts": official.of_clickouts, "engagements": official.of_engagements}
        measured_so = of[job.challenge]
        pairs += measured_so(ctx, job.source, job.part, scored, seed=seed, replicas=job.replicas)
    paired.write(
        ctx.run_dir / paired.FILE,
        {
            Key(scored_run.run.run_id, scored_run.task, label): replicates
            for scored_run, partial in pairs
            for label, replicates in partial.slices.items()
        },
    )
    rows = [row for scored_run, partial in pairs for row in _rows(ctx, job, scored_run, partial)]
    table = pa.table(
        {name: [row[name] for row in rows] for name in SCHEMAS[c.METRICS].fieldNames()}
    )
    version = ctx.lake.replace(
        c.METRICS,
        ctx.spark.createDataFrame(table, SCHEMAS[c.METRICS]).coalesce(1),
        {c.RUN_ID: ctx.run_id},
    )
    odd_counts: dict[str, dict[str, int]] = {}
    for scored_run, partial in pairs:
        odd_counts[scored_run.step] = odd_counts.get(scored_run.step, {}) | partial.odd
    for step, counts in odd_counts.items():
        if any(counts.values()):
            logger.warning(
                log.fields(step=step, **{name: count for name, count in counts.items() if count})
            )
    summary = {
        "split": evaluated.split(ctx, job),
        "part": job.part,
        "query_kind": lineage.query_kind(ctx, job.source),
        **evaluated.repeats(ctx, job, scored),
        "users": facts.num_users,
        "rows": facts.num_rows,
        "rows_with_unseen_item": facts.unseen_rows,
        "activity_bounds": list(facts.users.bounds),
        "data": evaluated.about(ctx, job),
        "replicas": job.replicas,
        "ks": list(job.ks),
        "engine": engine_name,
        "results": [
            {name: row[name] for name in (OF, *FIELDS)}
            for row in rows
            if row[c.SLICE] == slices.ALL
        ],
        "found": odd_counts,
    }
    return Outcome({c.METRICS: version} | evaluated.versions(ctx, job), summary=summary)


def _engine(ctx: Context, job: Job) -> str:
    if job.engine != "auto":
        return job.engine
    return "columnar" if evaluated.num_rows(ctx, job) <= job.columnar_rows else "spark"


def _measure(ctx: Context, job: Job, engine: Engine, scored_run: Scored) -> Partial:
    facts = engine.facts
    metrics = tuple(
        name
        for name in names.of_task(scored_run.task, job.metrics)
        if job.item_fields or name not in names.ITEM_FIELDS
    )
    settings = Settings(
        (job.longest,) if TASKS[scored_run.task].places else job.ks,
        seeds.derive(ctx.seed, "intervals"),
        job.replicas,
        metrics,
        facts.users,
        facts.num_users,
        facts.catalogue,
        facts.low,
        facts.high,
        TASKS[scored_run.task].block,
    )
    task, rows = TASKS[scored_run.task], scored_run.rows
    if task.binary and not facts.binary:
        raise DataError(
            f"split {evaluated.split(ctx, job)!r}, part {job.part}",
            found="values other than 0 and 1",
            expected=f"{task.title.lower()}, for {scored_run.step}",
            remedy="evaluate a split of impressions, or score ratings",
        )
    if task.scored == "lists":
        rows = rows.where(F.col(c.QUERY_KIND) == lineage.query_kind(ctx, job.source))
        # Candidate sets are ranked completely, without a cut
        rows = rows if task.among else rows.where(F.col(c.RANK) <= job.longest)
    measure: Callable[[DataFrame, Settings], Partial] = getattr(engine, task.measured)
    return measure(rows, settings)


def _rows(ctx: Context, job: Job, scored_run: Scored, partial: Partial) -> Iterator[dict[str, Any]]:
    """Rows of the table `metrics`."""
    for label, replicates in partial.slices.items():
        for metric, estimate in replicates.intervals().items():
            name, _, k = metric.partition("@")
            value, low, high = (
                None if math.isnan(x) else x for x in (estimate.value, estimate.low, estimate.high)
            )
            yield {
                c.RUN_ID: ctx.run_id,
                OF: scored_run.run.run_id,
                c.MODEL: scored_run.model,
                c.SPLIT: evaluated.split(ctx, job),
                c.QUERY_KIND: lineage.query_kind(ctx, job.source),
                c.SEED: scored_run.run.seed,
                c.TASK: scored_run.task,
                c.METRIC: name,
                c.K: int(k or 0),
                c.SLICE: label,
                c.VALUE: value,
                c.LOW: low,
                c.HIGH: high,
                c.N: estimate.n,
            }

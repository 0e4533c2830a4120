"""How good each scored run is: every metric, with its 95 % interval, over all users and by their activity, into `metrics`.

Rules: users with an event in the evaluated part are the units. A ranking without a list for such a user earns 0; a list keeps its
places, so an item that is repeated, unknown or scored NaN takes a place and cannot hit; a row without a finite prediction is
charged as if the mean of the training part had been predicted. All of these are counted, and the counts are in the summary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import evaluation
from recsys_spark.etl.evaluation import BLOCK, MAX_BLOCKS, OF
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.metrics import blocks, ranking
from recsys_spark.metrics.intervals import Interval, jackknife
from recsys_spark.report.results import BASELINE, FIELDS
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref, Refs

logger = log.get(__name__)
TABLES = {"ranking": c.RECOMMENDATIONS, "rating": c.PREDICTIONS}


class Job(context.Job):
    stage: Literal["evaluate"] = "evaluate"
    source: Ref  # the prepare step whose split is evaluated on
    of: Refs = Field(min_length=1)  # score steps
    ks: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((10, 20), min_length=1)
    part: Literal["valid", "test"] = "test"
    replicas: int = Field(1000, ge=100, le=10_000)  # of the bootstrap

    @field_validator("ks")
    @classmethod
    def _different(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(ks)) != len(ks):
            raise ValueError("cut-offs must differ")
        return ks


@dataclass(frozen=True)
class Scored:
    """What the queries below need to know of one scored run."""

    step: str
    run_id: str
    model: str
    seed: int
    num_queries: int  # users with a list, or with a prediction


@dataclass(frozen=True)
class Part:
    """The evaluated part of a split. rows: its events, to be found or predicted; bounds: quartiles of the users' training events."""

    users: DataFrame
    rows: DataFrame
    train: DataFrame
    num_users: int
    num_items: int  # in training
    mean: float  # of the values in training
    bounds: list[float]
    facts: dict[str, Any]

    def units(self, scored: list[Scored]) -> DataFrame:
        runs = self.users.sparkSession.createDataFrame([(run.run_id,) for run in scored], f"{OF} string")
        return evaluation.units(self.users, runs, self.bounds, self.num_users)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Checks what can be checked without work; rows of the evaluated part, and memory for the partial sums."""
    tasks = _tasks(ctx, job)
    partial = MAX_BLOCKS * 5 * len(ranking.names(job.ks)) * 16 * (job.replicas + 1)  # five slices; sums and counts
    rows = ctx.read(c.SPLITS, job.source).where(_of_run(ctx.inputs[job.source].run_id) & (F.col(c.PART) == job.part)).count()
    return {"rows": rows, "models": sum(map(len, tasks.values())), "memory_bytes": partial}


def run(ctx: Context, job: Job) -> Outcome:
    scored_for = {task: _scored(ctx, job, task, steps) for task, steps in _tasks(ctx, job).items()}
    part = _part(ctx, job)
    rows: list[tuple[Any, ...]] = []
    found: Odd = {}
    for task, scored in scored_for.items():
        measured, odd = (_ranking if task == "ranking" else _rating)(ctx, job, part, scored)
        for one in scored:
            found.setdefault(one.step, {}).update(odd[one.run_id])
            for (slice_name, metric), at in measured[one.run_id].items():
                name, _, k = metric.partition("@")
                numbers = [None if math.isnan(x) else x for x in (at.value, at.low, at.high)]
                rows.append((ctx.run_id, one.run_id, one.model, part.facts["split"], one.seed, task, name, int(k or 0), slice_name,
                             *numbers, at.n))
    version = ctx.lake.replace(c.METRICS, ctx.spark.createDataFrame(rows, SCHEMAS[c.METRICS]).coalesce(1), {c.RUN_ID: ctx.run_id})
    return Outcome({c.METRICS: version} | _versions(ctx, job), summary=_summary(job, part, rows, found))


def _tasks(ctx: Context, job: Job) -> dict[str, list[str]]:
    """{task: steps}. Raises ConfigError for a step that scored nothing, another split or part, or lists that are too short for ks."""
    tasks: dict[str, list[str]] = {}
    source = ctx.inputs[job.source]
    for step in dict.fromkeys(job.of):
        made = ctx.inputs[step]
        of_step = [task for task, table in TABLES.items() if table in made.output_versions]
        if not of_step:
            raise ConfigError(f"step {ctx.step}, of", found=f"{step}, which is a {made.stage} step", expected="steps of stage score")
        if made.upstream and source.run_id not in made.upstream.values():
            raise ConfigError(f"step {ctx.step}, of", found=f"{step}, which was scored for {', '.join(made.upstream)}",
                              expected=f"runs scored for {job.source}", remedy="evaluate each split in a step of its own")
        if made.config.get("part", job.part) != job.part:
            raise ConfigError(f"step {ctx.step}, part", found=job.part, expected=f"{made.config['part']}, which {step} scored",
                              remedy=f"set the same part in {ctx.step} and {step}")
        stored = made.config.get("k")
        if "ranking" in of_step and isinstance(stored, int) and stored < max(job.ks):
            raise ConfigError(f"step {ctx.step}, ks", found=max(job.ks), expected=f"at most {stored}, the length of the lists of {step}",
                              remedy=f"raise k of {step}, or lower ks")
        for task in of_step:
            tasks.setdefault(task, []).append(step)
    return tasks


def _part(ctx: Context, job: Job) -> Part:
    """Raises DataError when the part is empty."""
    events = ctx.read(c.SPLITS, job.source).where(_of_run(ctx.inputs[job.source].run_id))
    train, rows = events.where(F.col(c.PART) == c.TRAIN), events.where(F.col(c.PART) == job.part)
    users = evaluation.users_of(rows, train)
    quartiles = F.percentile("events", F.array(F.lit(0.25), F.lit(0.5), F.lit(0.75)))
    bounds, num_users = users.agg(quartiles, F.count(F.lit(1))).collect()[0]
    if not num_users:
        raise DataError(f"split {_split(ctx, job)!r}, part {job.part}", found="no events", expected="at least one",
                        remedy=f"choose another part, or check the fractions and filters of {job.source}")
    known = train.groupBy(c.ITEM_IDX).agg(F.sum(c.VALUE).alias("total"), F.count(F.lit(1)).alias("events")).persist()
    num_items, mean = known.agg(F.count(F.lit(1)), F.sum("total") / F.sum("events")).collect()[0]
    num_rows, unseen = rows.join(known, on=c.ITEM_IDX, how="left").agg(F.count(F.lit(1)), F.count_if(F.isnull("events"))).collect()[0]
    known.unpersist()
    source = ctx.inputs[job.source].summary
    facts = {"split": _split(ctx, job), "part": job.part, "users": num_users, "rows": num_rows, "rows_with_unseen_item": unseen,
             "activity_bounds": bounds, "data": {name: source[name] for name in ("rule", "rows", "users", "items") if name in source}}
    return Part(users, rows, train, num_users, num_items, mean, bounds, facts)


def _scored(ctx: Context, job: Job, task: str, steps: list[str]) -> list[Scored]:
    """Raises DataError for a run without rows, ConfigError when the baseline is not among them or a run is of another split."""
    table = TABLES[task]
    query, split = (c.QUERY_ID, F.lit(None)) if task == "ranking" else (c.USER_ID, F.max(F.nullif(c.SPLIT, F.lit(_split(ctx, job)))))
    facts = (F.min(c.MODEL).alias(c.MODEL), F.countDistinct(query).alias("n"), split.alias("other"))
    found = {row[c.RUN_ID]: row for row in _rows(ctx, table, steps).groupBy(c.RUN_ID).agg(*facts).collect()}
    scored = []
    for step in steps:
        made = ctx.inputs[step]
        row = found.get(made.run_id)
        if row is None:
            raise DataError(f"run {made.run_id} in table {table}", found="no rows", expected="a list or a prediction for every user",
                            remedy=f"rerun step {step}")
        if row["other"] is not None:
            raise ConfigError(f"run {made.run_id}", found=f"predictions for split {row['other']!r}", expected=f"split {_split(ctx, job)!r}",
                              remedy=f"let {step} score {job.source}")
        scored.append(Scored(step, made.run_id, row[c.MODEL], made.seed, row["n"]))
    models = [run.model for run in scored]
    if BASELINE[task] not in models:
        raise ConfigError(f"step {ctx.step}, of", found=f"{task} of {', '.join(models)} alone", expected=f"{BASELINE[task]} beside them",
                          remedy=f"score {BASELINE[task]} too, and add that step to `of`")
    return scored


def _rows(ctx: Context, table: str, steps: list[str]) -> DataFrame:
    """Of the scored runs, each at the version that its run left."""
    return reduce(DataFrame.union, [ctx.read(table, step).where(_of_run(ctx.inputs[step].run_id)) for step in steps])


Measured = dict[str, dict[tuple[str, str], Interval]]  # run_id -> (slice, metric@k) -> value with interval
Odd = dict[str, dict[str, int]]  # run_id -> what was odd -> how often


def _ranking(ctx: Context, job: Job, part: Part, scored: list[Scored]) -> tuple[Measured, Odd]:
    entries = _rows(ctx, c.RECOMMENDATIONS, [run.step for run in scored])
    entries = entries.where((F.col(c.QUERY_KIND) == "user") & (F.col(c.RANK) <= max(job.ks)))
    users = evaluation.ranking_users(part.units(scored), part.rows, part.train, entries).persist()
    try:
        measured, odd = _sum_up(ctx, job, users, blocks.ranking_block, scored)
        for row in evaluation.coverage(users, job.ks).collect():
            share = row["items"] / part.num_items
            found = jackknife(share, row["squares"] / part.num_items**2, row["sum"] / part.num_items, part.num_users)
            found = Interval(share, max(0.0, found.low), min(1.0, found.high), found.n)
            measured[row[OF]][(blocks.ALL, f"coverage@{row[c.K]}")] = found
    finally:
        users.unpersist()
    for run in scored:
        odd[run.run_id]["lists_without_target"] = run.num_queries - (part.num_users - odd[run.run_id]["users_without_list"])
    return measured, odd


def _rating(ctx: Context, job: Job, part: Part, scored: list[Scored]) -> tuple[Measured, Odd]:
    predictions = _rows(ctx, c.PREDICTIONS, [run.step for run in scored])
    users = evaluation.rating_users(part.units(scored), part.rows, predictions, part.mean)
    measured, odd = _sum_up(ctx, job, users, blocks.rating_block, scored)
    repeated = predictions.groupBy(c.RUN_ID).agg(F.count(F.lit(1)) - F.countDistinct(c.USER_ID, c.ITEM_ID))
    for run_id, count in repeated.collect():
        odd[run_id]["repeated_predictions"] = count
    return measured, odd


def _sum_up(ctx: Context, job: Job, users: DataFrame, measure: Any, scored: list[Scored]) -> tuple[Measured, Odd]:
    """Partial sums of every block on the workers, added here in the order of the blocks."""
    settings = blocks.Settings(job.ks, seeds.derive(ctx.seed, "intervals"), job.replicas)

    def one_block(key: tuple[Any, ...], table: pa.Table) -> pa.Table:
        partial = measure(table, settings)
        labels = [pa.array([value.as_py()] * len(partial), kind) for value, kind in zip(key, (pa.string(), pa.int32()), strict=True)]
        return pa.table([*labels, *partial.columns], names=[OF, BLOCK, *partial.column_names])

    schema = f"{OF} string, {BLOCK} int, {c.SLICE} string, {c.METRIC} string, sums binary, counts binary"
    partials = users.groupBy(OF, BLOCK).applyInArrow(one_block, schema).toArrow().sort_by(BLOCK)
    measured: Measured = {}
    odd: Odd = {}
    for run in scored:
        merged, odd[run.run_id] = blocks.merge(partials.filter(pc.equal(partials[OF], run.run_id)), job.replicas)
        measured[run.run_id] = {(name, metric): interval for name, made in merged.items() for metric, interval in made.intervals().items()}
    return measured, odd


def _versions(ctx: Context, job: Job) -> dict[str, int]:
    """Versions that the report reads: those evaluated here, and the items that the split was made beside."""
    versions = {table: max(ctx.inputs[step].output_versions.get(table, -1) for step in job.of) for table in TABLES.values()}
    versions |= {table: ctx.inputs[job.source].output_versions.get(table, -1) for table in (c.SPLITS, c.ITEMS)}
    return {table: version for table, version in versions.items() if version >= 0}


def _summary(job: Job, part: Part, rows: list[tuple[Any, ...]], found: Odd) -> dict[str, Any]:
    names = SCHEMAS[c.METRICS].fieldNames()
    overall = [{name: row[names.index(name)] for name in (OF, *FIELDS)} for row in rows if row[names.index(c.SLICE)] == blocks.ALL]
    for step, counts in found.items():
        if any(counts.values()):
            logger.warning(log.fields(step=step, **{name: count for name, count in counts.items() if count}))
    return part.facts | {"replicas": job.replicas, "ks": list(job.ks), "results": overall, "found": found}


def _split(ctx: Context, job: Job) -> str:
    return str(ctx.inputs[job.source].summary["split"])


def _of_run(run_id: str) -> Any:
    return F.col(c.RUN_ID) == run_id

"""What an evaluate step reads: the part of the split, the scored runs, and all that must fit together before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.etl.evaluation import Source
from recsys_spark.metrics import names
from recsys_spark.metrics.names import CLICK, NEW_ITEMS, RANKING, RATING, SAMPLED
from recsys_spark.report.results import BASELINE
from recsys_spark.stages.context import Context

if TYPE_CHECKING:
    from recsys_spark.stages.evaluate import Job


FIELDS_OF = {c.USERS: "user_fields", c.ITEMS: "item_fields"}  # options that name fields of a table


@dataclass(frozen=True)
class Scored:
    """A scored run. rows: of `recommendations` or `predictions`, at the version that the run left."""

    step: str
    run: Run
    task: str
    table: str
    rows: DataFrame
    model: str


def tasks(ctx: Context, job: Job) -> dict[str, str]:
    """{step: its task}. Raises ConfigError for what cannot be measured: a step that scored nothing, another split, version or part, lists
    that are too short for ks, metrics that no task has or that need fields, fields without a table."""
    found = {step: _task(ctx, job, step) for step in dict.fromkeys(job.of)}
    for task in found.values():
        names.of_task(task, job.metrics)
    if set(names.ITEM_FIELDS) & set(job.metrics) and not job.item_fields:
        raise ConfigError(f"step {ctx.step}, metrics", found="diversity without item_fields", expected="the fields in which it is measured",
                          remedy="add for example item_fields: [genres]")
    for table, option in FIELDS_OF.items():
        if getattr(job, option) and table not in ctx.inputs[job.source].output_versions:
            raise ConfigError(f"step {ctx.step}, {option}", found=", ".join(getattr(job, option)),
                              expected=f"none, for the data set has no table {table}")
    return found


def _task(ctx: Context, job: Job, step: str) -> str:
    made, source = ctx.inputs[step], ctx.inputs[job.source]
    if made.stage != "score" or not {c.RECOMMENDATIONS, c.PREDICTIONS} & set(made.output_versions):
        raise ConfigError(f"step {ctx.step}, of", found=f"{step}, which is a {made.stage} step", expected="steps of stage score")
    if made.upstream and source.run_id not in made.upstream.values():
        raise ConfigError(f"step {ctx.step}, of", found=f"{step}, which was scored for {', '.join(made.upstream)}",
                          expected=f"runs scored for {job.source}", remedy="evaluate each split in a step of its own")
    read, now = (run.output_versions.get(c.SPLITS) for run in (made, source))
    if read is not None and read != now:
        raise ConfigError(f"step {ctx.step}, of", found=f"{step}, which was scored for version {read} of table {c.SPLITS}",
                          expected=f"version {now}, which {job.source} left", remedy=f"run {step} again with --force")
    if made.config.get("part", job.part) != job.part:
        raise ConfigError(f"step {ctx.step}, part", found=job.part, expected=f"{made.config['part']}, which {step} scored",
                          remedy=f"set the same part in {ctx.step} and {step}")
    if c.RECOMMENDATIONS not in made.output_versions:
        return CLICK if made.summary.get("task") == CLICK else RATING
    if made.config.get("candidates"):
        return NEW_ITEMS if made.summary.get("among") == c.NEW_ITEMS else SAMPLED
    stored = made.config.get("k")
    if isinstance(stored, int) and stored < max(job.ks):
        raise ConfigError(f"step {ctx.step}, ks", found=max(job.ks), expected=f"at most {stored}, the length of the lists of {step}",
                          remedy=f"raise k of {step}, or lower ks")
    return RANKING


def scored(ctx: Context, job: Job) -> list[Scored]:
    """Raises DataError for a run without rows; ConfigError when the baseline is not among them, or a run's rows are of another split."""
    found = []
    for step, task in tasks(ctx, job).items():
        run, table = ctx.inputs[step], _table(task)
        rows = ctx.read(table, step).where(F.col(c.RUN_ID) == run.run_id)
        if table == c.PREDICTIONS:
            rows = rows.where(F.col(c.TASK) == task)
        model = str(run.summary["model"]) if run.summary.get("rows") and "model" in run.summary else _model(ctx, job, step, table, rows)
        found.append(Scored(step, run, task, table, rows, model))
    for task in dict.fromkeys(one.task for one in found):
        models = [one.model for one in found if one.task == task]
        if task in BASELINE and BASELINE[task] not in models:
            raise ConfigError(f"step {ctx.step}, of", found=f"{task} of {', '.join(models)} alone",
                              expected=f"{BASELINE[task]} beside them",
                              remedy=f"score {BASELINE[task]} too, and add that step to `of`")
    return found


def _model(ctx: Context, job: Job, step: str, table: str, rows: DataFrame) -> str:
    """Read from the rows, where the run's summary does not say."""
    run, predicted = ctx.inputs[step], table == c.PREDICTIONS
    first = rows.select(c.MODEL, *([c.SPLIT] if predicted else [])).first()
    if first is None:
        raise DataError(f"run {run.run_id} in table {table}", found="no rows", expected="a list or a prediction for every user",
                        remedy=f"rerun step {step}")
    if predicted and first[c.SPLIT] != split(ctx, job):
        raise ConfigError(f"run {run.run_id}", found=f"predictions for split {first[c.SPLIT]!r}", expected=f"split {split(ctx, job)!r}",
                          remedy=f"let {step} score {job.source}")
    return str(first[c.MODEL])


def _table(task: str) -> str:
    return c.PREDICTIONS if task in (RATING, CLICK) else c.RECOMMENDATIONS


def num_rows(ctx: Context, job: Job) -> int:
    """Rows that the columnar engine would have in memory at once: the split's events and the scored rows of the largest run."""
    found = ctx.inputs[job.source].summary.get("rows") or events(ctx, job).count()
    of_runs = []
    for step, task in tasks(ctx, job).items():
        rows = ctx.read(_table(task), step).where(F.col(c.RUN_ID) == ctx.inputs[step].run_id)
        of_runs.append(ctx.inputs[step].summary.get("rows") or rows.count())
    return int(found) + int(max(of_runs))


def source(ctx: Context, job: Job) -> Source:
    rows = events(ctx, job).where(F.col(c.PART) == job.part).select(c.USER_IDX, c.ITEM_IDX, c.USER_ID, c.ITEM_ID, c.TS, c.VALUE)
    trained = F.col(c.PART) == c.TRAIN
    counted = trained | F.col(c.PART).isin(c.VALID_FOLD_IN, c.TEST_FOLD_IN)
    known = events(ctx, job).where(F.col(c.PART).isin(*c.BEFORE[job.part])).select(
        c.USER_IDX, c.ITEM_IDX, c.VALUE, trained.alias("trained"), counted.alias("counted"))
    return Source(rows, known, ctx.read(c.ITEM_INDEX, job.source), _fields(ctx, job, c.USERS, c.USER_ID),
                  _fields(ctx, job, c.ITEMS, c.ITEM_ID))


def _fields(ctx: Context, job: Job, table: str, key: str) -> DataFrame | None:
    """(key, one column a field). Raises ConfigError for a field that no row has."""
    option = FIELDS_OF[table]
    fields: tuple[str, ...] = getattr(job, option)
    if not fields:
        return None
    rows = ctx.read(table, job.source)
    there = {row[0] for row in rows.select(F.explode(F.map_keys("fields"))).distinct().collect()}
    for name in fields:
        if name not in there:
            raise ConfigError(f"step {ctx.step}, {option}", found=repr(name),
                              expected=f"one of {', '.join(sorted(there))}{nearest(name, there)}")
    return rows.select(key, *(F.col("fields")[name].alias(name) for name in fields))


def events(ctx: Context, job: Job) -> DataFrame:
    return ctx.read(c.SPLITS, job.source).where(F.col(c.RUN_ID) == ctx.inputs[job.source].run_id)


def split(ctx: Context, job: Job) -> str:
    return str(ctx.inputs[job.source].summary["split"])


def versions(ctx: Context, job: Job) -> dict[str, int]:
    """Versions that the report reads: those evaluated here, and the items that the split was made beside."""
    found = {table: max(ctx.inputs[step].output_versions.get(table, -1) for step in job.of) for table in (c.RECOMMENDATIONS, c.PREDICTIONS)}
    found |= {table: ctx.inputs[job.source].output_versions.get(table, -1) for table in (c.SPLITS, c.ITEMS)}
    return {table: version for table, version in found.items() if version >= 0}


def about(ctx: Context, job: Job) -> dict[str, Any]:
    """Of the data that the split was made from, for the report."""
    facts = ctx.inputs[job.source].summary
    return {name: facts[name] for name in ("rule", "rows", "users", "items") if name in facts}

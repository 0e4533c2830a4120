"""Inputs of an evaluate step: the part of the split and the scored runs, with the checks that they
belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.etl.evaluation.engine import CREDIT, Source
from recsys_spark.etl.split import rule_of
from recsys_spark.etl.split.scenarios import SCENARIO
from recsys_spark.metrics import names
from recsys_spark.metrics.tasks import RANKING, RATING, TASKS, of_lists
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context
from recsys_spark.pipeline.steps import Step
from recsys_spark.stages.bridge import configured
from recsys_spark.stages.results.evaluation import Evaluation

FIELDS_OF = {c.USERS: "user_fields", c.ITEMS: "item_fields"}  # options that name fields of a table


@dataclass(frozen=True)
class Scored:
    """A scored run. rows: its rows of `recommendations` or `predictions`, at the version that the
    run wrote.
    """

    step: str
    run: Run
    task: str
    table: str
    rows: DataFrame
    model: str


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """What is evaluated was scored for this split and part, in lists that are long enough, with the
    baseline of its task beside it.
    """
    job: Any = step.job
    models: dict[str, list[str]] = {}
    for name in job.of:
        score: Any = steps[name].job
        for field in ("source", "part"):
            if getattr(score, field) != getattr(job, field):
                raise ConfigError(
                    f"{where}.{field}",
                    found=getattr(job, field),
                    expected=f"{getattr(score, field)}, which {name} scores",
                    remedy="evaluate each split and part in a step of its own",
                )
        task = configured.measured_as(score, steps)
        if task == RANKING.name:
            task = job.task
            _require_length(f"{where}.ks", name, score.k, job)
        names.of_task(task, job.metrics)
        model: Any = steps[score.model].job
        models.setdefault(task, []).append(model.model)
    for task, of_task in models.items():
        _require_baseline(f"{where}.of", task, of_task)
    _require_fields(f"{where}.metrics", job)


def tasks(ctx: Context, job: Evaluation) -> dict[str, str]:
    """{step: its task}. Raises ConfigError for what cannot be measured: a step without scores, a
    different split, version or part, lists that are too short for ks, metrics that no task has or
    that need fields, fields without a table.
    """
    task_of_step = {step: _task(ctx, job, step) for step in dict.fromkeys(job.of)}
    for task in task_of_step.values():
        names.of_task(task, job.metrics)
    _require_fields(f"step {ctx.step}, metrics", job)
    for table, option in FIELDS_OF.items():
        if getattr(job, option) and table not in ctx.inputs[job.source].output_versions:
            raise ConfigError(
                f"step {ctx.step}, {option}",
                found=", ".join(getattr(job, option)),
                expected=f"none, for the data set has no table {table}",
            )
    return task_of_step


def _task(ctx: Context, job: Evaluation, step: str) -> str:
    run = ctx.inputs[step]
    lineage.require_scored_for(ctx, step, source=job.source, part=job.part)
    if c.RECOMMENDATIONS not in run.output_versions:
        return str(run.summary.get("task", RATING.name))
    if run.config.get("candidates"):
        return of_lists(str(run.summary.get("among") or c.SAMPLED)).name
    stored = run.config.get("k")
    if isinstance(stored, int):
        _require_length(f"step {ctx.step}, ks", step, stored, job)
    return job.task


def _require_length(where: str, step: str, k: int, job: Evaluation) -> None:
    """k: the length of the lists of `step`."""
    if k < job.longest:
        raise ConfigError(
            where,
            found=job.longest,
            expected=f"at most {k}, the length of the lists of {step}",
            remedy=f"raise k of {step}, or lower ks",
        )


def _require_baseline(where: str, task: str, models: list[str]) -> None:
    baseline = TASKS[task].baseline
    if baseline and baseline not in models:
        raise ConfigError(
            where,
            found=f"{task} of {', '.join(models)} alone",
            expected=f"{baseline} beside them",
            remedy=f"score {baseline} too, and add that step to `of`",
        )


def _require_fields(where: str, job: Evaluation) -> None:
    if set(names.ITEM_FIELDS) & set(job.metrics) and not job.item_fields:
        raise ConfigError(
            where,
            found="diversity without item_fields",
            expected="the fields in which it is measured",
            remedy="add for example item_fields: [genres]",
        )


def scored(ctx: Context, job: Evaluation) -> list[Scored]:
    """The scored runs of the step. Raises DataError for a run without rows; ConfigError when the
    task's baseline is missing, or a run's rows are of another split.
    """
    scored_runs = []
    for step, task in tasks(ctx, job).items():
        run, table = ctx.inputs[step], _table(task)
        rows = ctx.read(table, step).where(F.col(c.RUN_ID) == run.run_id)
        if table == c.PREDICTIONS:
            rows = rows.where(F.col(c.TASK) == task)
        model = (
            str(run.summary["model"])
            if run.summary.get("rows") and "model" in run.summary
            else _model(ctx, job, step, table, rows)
        )
        scored_runs.append(Scored(step, run, task, table, rows, model))
    for task in dict.fromkeys(scored_run.task for scored_run in scored_runs):
        models = [scored_run.model for scored_run in scored_runs if scored_run.task == task]
        _require_baseline(f"step {ctx.step}, of", task, models)
    return scored_runs


def _model(ctx: Context, job: Evaluation, step: str, table: str, rows: DataFrame) -> str:
    """The model of a run, read from its rows where the run's summary does not name it."""
    run, predicted = ctx.inputs[step], table == c.PREDICTIONS
    first = rows.select(c.MODEL, *([c.SPLIT] if predicted else [])).first()
    if first is None:
        raise DataError(
            f"run {run.run_id} in table {table}",
            found="no rows",
            expected="a list or a prediction for every user",
            remedy=f"rerun step {step}",
        )
    if predicted and first[c.SPLIT] != split(ctx, job):
        raise ConfigError(
            f"run {run.run_id}",
            found=f"predictions for split {first[c.SPLIT]!r}",
            expected=f"split {split(ctx, job)!r}",
            remedy=f"let {step} score {job.source}",
        )
    return str(first[c.MODEL])


def _table(task: str) -> str:
    return c.PREDICTIONS if TASKS[task].scored == "rows" else c.RECOMMENDATIONS


def num_rows(ctx: Context, job: Evaluation) -> int:
    """Rows that the columnar engine would hold in memory: the split's events and the scored rows of
    the largest run.
    """
    num_events = ctx.inputs[job.source].summary.get("rows") or events(ctx, job).count()
    of_runs = []
    for step, task in tasks(ctx, job).items():
        rows = ctx.read(_table(task), step).where(F.col(c.RUN_ID) == ctx.inputs[step].run_id)
        of_runs.append(ctx.inputs[step].summary.get("rows") or rows.count())
    return int(num_events) + int(max(of_runs))


def source(ctx: Context, job: Evaluation) -> Source:
    rows = (
        events(ctx, job)
        .where(F.col(c.PART) == job.part)
        .select(c.QUERY_IDX, c.ITEM_IDX, c.QUERY_ID, c.ITEM_ID, c.TS, c.VALUE)
    )
    trained = F.col(c.PART) == c.TRAIN
    counted = trained | F.col(c.PART).isin(c.VALID_FOLD_IN, c.TEST_FOLD_IN)
    earlier = (
        events(ctx, job)
        .where(F.col(c.PART).isin(*c.BEFORE[job.part]))
        .select(
            c.QUERY_IDX, c.ITEM_IDX, c.VALUE, trained.alias("trained"), counted.alias("counted")
        )
    )
    return Source(
        rows,
        earlier,
        _items(ctx, job),
        _of_queries(ctx, job),
        _fields(ctx, job, c.ITEMS, F.col(c.ITEM_ID)),
    )


def _of_queries(ctx: Context, job: Evaluation) -> DataFrame | None:
    """(query_id, one column per field) by which queries are sliced: the fields that are asked for,
    and the scenarios of a rule that has several.
    """
    fields = _fields(ctx, job, c.USERS, F.col(c.USER_ID).alias(c.QUERY_ID))
    several = scenarios(ctx, job)
    if fields is None or several is None:
        return several if fields is None else fields
    return fields.join(several, on=c.QUERY_ID, how="left")


def scenarios(ctx: Context, job: Evaluation) -> DataFrame | None:
    """(query_id, scenario), by which the report is sliced, where the split's rule has several."""
    facts = ctx.inputs[job.source].summary
    of_queries = rule_of(facts).scenarios(events(ctx, job), facts["seed"])
    return None if of_queries is None else of_queries.select(c.QUERY_ID, SCENARIO)


def _items(ctx: Context, job: Evaluation) -> DataFrame:
    """(item_id, item_idx), and of a task that gives credit a code for the value that earns it."""
    items = ctx.read(c.ITEM_INDEX, job.source)
    if not TASKS[job.task].block or c.ITEMS not in ctx.inputs[job.source].output_versions:
        return items
    value = F.col("fields").getItem(job.artist_field)
    code = F.when(value.isNotNull(), F.xxhash64(value)).otherwise(F.lit(0))
    codes = ctx.read(c.ITEMS, job.source).select(c.ITEM_ID, code.alias(CREDIT))
    return items.join(codes, on=c.ITEM_ID, how="left")


def _fields(ctx: Context, job: Evaluation, table: str, key: Column) -> DataFrame | None:
    """(key, one column per field). Raises ConfigError for a field that no row has."""
    option = FIELDS_OF[table]
    fields: tuple[str, ...] = getattr(job, option)
    if not fields:
        return None
    rows = ctx.read(table, job.source)
    present = {row[0] for row in rows.select(F.explode(F.map_keys("fields"))).distinct().collect()}
    for name in fields:
        if name not in present:
            raise ConfigError(
                f"step {ctx.step}, {option}",
                found=repr(name),
                expected=f"one of {', '.join(sorted(present))}{nearest(name, present)}",
            )
    return rows.select(key, *(F.col("fields")[name].alias(name) for name in fields))


def events(ctx: Context, job: Evaluation) -> DataFrame:
    return lineage.split_rows(ctx, job.source)


def split(ctx: Context, job: Evaluation) -> str:
    return str(ctx.inputs[job.source].summary["split"])


def versions(ctx: Context, job: Evaluation) -> dict[str, int]:
    """{table: version} that the report reads: evaluated tables, and the split with its items."""
    latest = {
        table: max(ctx.inputs[step].output_versions.get(table, -1) for step in job.of)
        for table in (c.RECOMMENDATIONS, c.PREDICTIONS)
    }
    latest |= {
        table: ctx.inputs[job.source].output_versions.get(table, -1)
        for table in (c.SPLITS, c.ITEMS)
    }
    return {table: version for table, version in latest.items() if version >= 0}


def repeats(ctx: Context, job: Evaluation, scored_runs: list[Scored]) -> dict[str, Any]:
    """Rankings whose lists may have what was met before (`seen: keep`), and the events of such
    items, which the lists of the others cannot hit.
    """
    rankings = [scored_run for scored_run in scored_runs if scored_run.task == RANKING.name]
    keeping = [run.step for run in rankings if run.run.config.get("seen") == "keep"]
    count = ctx.inputs[job.source].summary.get(f"{job.part}_repeated", 0)
    return {
        **({"seen_kept": keeping} if keeping else {}),
        **({"repeated": count} if count and len(keeping) < len(rankings) else {}),
    }


def about(ctx: Context, job: Evaluation) -> dict[str, Any]:
    """Facts on the data that the split was made from, for the report."""
    facts = ctx.inputs[job.source].summary
    return {name: facts[name] for name in ("rule", "rows", "users", "items") if name in facts}

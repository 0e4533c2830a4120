"""Evaluations, training curves and example users -> `report.html` in the run's folder, one file that opens without a network."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import artifacts, log, seeds
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.report import html, results
from recsys_spark.report.content import Evaluation, Example, Item, Page, Training
from recsys_spark.report.terminal import PAGE
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Refs

logger = log.get(__name__)
SHOWN = 10  # items of a user's history and of each list
CURVES = "metrics.jsonl"
PACKAGES = ("pyspark", "delta-spark", "torch", "horovod", "petastorm", "pyarrow", "numpy")
RULES = {"leave_last_out": "leave last out", "global_time": "split by time", "random": "random rows"}


class Job(context.Job):
    stage: Literal["report"] = "report"
    evaluation: Refs = Field(min_length=1)  # evaluate steps
    trained: Refs = ()  # train steps whose curves are drawn
    example_users: int = Field(6, ge=0, le=100)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    _check(ctx, job)
    return {"evaluations": len(job.evaluation), "curves": len(job.trained), "example_users": job.example_users}


def run(ctx: Context, job: Job) -> Outcome:
    _check(ctx, job)
    evaluations = tuple(_evaluation(ctx, step) for step in job.evaluation)
    trainings = tuple(training for training in map(_training, (ctx.inputs[step] for step in job.trained)) if training is not None)
    examples = _examples(ctx, job, evaluations)
    behind = _behind(ctx)
    page = Page(
        title=_title(ctx, behind), data=_data(ctx, job, evaluations, behind), facts=tuple(_facts(ctx, evaluations, trainings).items()),
        evaluations=evaluations, trainings=trainings, examples=examples,
        steps=tuple((run.run_id, run.stage, run.ended_at - run.started_at) for run in behind),
    )
    artifacts.write_text(ctx.run_dir / PAGE, html.render(page))
    logger.info(log.fields(stage="report", path=ctx.run_dir / PAGE))
    return Outcome(summary={"evaluations": len(evaluations), "curves": len(trainings), "example_users": len(examples)})


def _check(ctx: Context, job: Job) -> None:
    for step in job.evaluation:
        if ctx.inputs[step].stage != "evaluate":
            raise ConfigError(f"step {ctx.step}, evaluation", found=f"{step}, which is a {ctx.inputs[step].stage} step",
                              expected="steps of stage evaluate")


def _evaluation(ctx: Context, step: str) -> Evaluation:
    run = ctx.inputs[step]
    rows = ctx.read(c.METRICS, step).where(F.col(c.RUN_ID) == run.run_id)
    values = [results.Value(run_id=row["of_run_id"], **{name: row[name] for name in results.FIELDS}) for row in rows.collect()]
    values.sort(key=lambda value: (value.run_id, value.task, value.slice, value.k, value.metric))
    if not values:
        raise DataError(f"run {run.run_id} in table {c.METRICS}", found="no rows", expected="measured values", remedy=f"rerun step {step}")
    facts = run.summary
    notes = []
    if any(value.task == "ranking" for value in values):
        notes.append("Every list is drawn from the whole catalogue without the items that the user had before; no sampled candidates.")
        if facts.get("rows") == facts["users"]:
            notes.append("Every user has one event to find: recall equals hit rate, and MAP equals MRR.")
    if facts.get("rows_with_unseen_item"):
        notes.append(f"{facts['rows_with_unseen_item']:,} of {facts['rows']:,} events are of items without a training event.")
    rule = str(facts.get("data", {}).get("rule", facts["split"]))
    return Evaluation(step, facts["split"], RULES.get(rule, rule), facts["part"], facts["users"], tuple(values),
                      tuple(facts.get("activity_bounds", ())), facts.get("found", {}), tuple(notes))


def _training(run: Run) -> Training | None:
    """None for a run without curves (closed form, or Spark). Raises DataError for a file that is cut or not ours."""
    path = Path(run.run_dir) / CURVES
    if not path.is_file():
        return None
    try:
        epochs = tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        monitor = (run.config.get("train") or {}).get("monitor") or ("rmse" if "rmse" in epochs[0] else "ndcg@10")
    except (ValueError, IndexError) as problem:
        raise DataError(str(path), found=str(problem), expected="one JSON object a line", remedy=f"rerun step {run.step}") from None
    facts = []
    if run.summary.get("examples_per_s"):
        facts.append(f"{run.summary['examples_per_s']:,.0f} examples/s")
    if run.summary.get("num_workers"):
        facts.append(f"{run.summary.get('engine', '')} on {run.summary['num_workers']}")
    return Training(run.step, str(run.config.get("model", run.step)), monitor, monitor in results.LOWER_IS_BETTER, epochs, tuple(facts))


def _examples(ctx: Context, job: Job, evaluations: tuple[Evaluation, ...]) -> tuple[Example, ...]:
    """Users of the first ranking, drawn by a hash of (seed, user): nobody chose them."""
    ranked = next((e for e in evaluations if any(value.task == "ranking" for value in e.values)), None)
    if ranked is None or job.example_users == 0:
        return ()
    run = ctx.inputs[ranked.name]
    events = ctx.read(c.SPLITS, ranked.name).where(F.col(c.RUN_ID) == run.upstream[run.config["source"]])
    held = events.where(F.col(c.PART) == ranked.part)
    draw = F.xxhash64(F.lit(seeds.derive(ctx.seed, "example users")), c.USER_ID)
    users = [row[0] for row in held.select(c.USER_ID).distinct().orderBy(draw, c.USER_ID).limit(job.example_users).collect()]
    of_users = F.col(c.USER_ID).isin(users)
    best = Window.partitionBy(c.USER_ID).orderBy(F.desc(c.VALUE), F.desc(c.TS), c.ITEM_ID)
    train = events.where(of_users & (F.col(c.PART) == c.TRAIN)).withColumns(
        {"place": F.row_number().over(best), "events": F.count(F.lit(1)).over(Window.partitionBy(c.USER_ID))})
    liked = _titled(ctx, ranked.name, train.where(F.col("place") <= SHOWN).select(c.USER_ID, c.ITEM_ID, c.VALUE, "place", "events"))
    wanted = _titled(ctx, ranked.name, held.where(of_users).select(c.USER_ID, c.ITEM_ID, c.VALUE, F.lit(0).alias("place")))
    table = results.table(ranked.values, "ranking")
    labels = {row.run_id: row.label for row in table.rows}
    lists = ctx.read(c.RECOMMENDATIONS, ranked.name).where(F.col(c.RUN_ID).isin(list(labels)) & F.col(c.QUERY_ID).isin(users))
    lists = lists.where((F.col(c.QUERY_KIND) == "user") & (F.col(c.RANK) <= SHOWN))
    shown = _titled(ctx, ranked.name, lists.select(F.col(c.QUERY_ID).alias(c.USER_ID), c.ITEM_ID, c.RUN_ID, F.col(c.RANK).alias("place")))
    return tuple(
        Example(
            user_id=user,
            events=next((row["events"] for row in liked if row[c.USER_ID] == user), 0),
            liked=tuple(_item(row) for row in liked if row[c.USER_ID] == user),
            held_out=tuple(_item(row) for row in wanted if row[c.USER_ID] == user),
            lists={label: tuple(_item(row) for row in shown if (row[c.USER_ID], row[c.RUN_ID]) == (user, run_id))
                   for run_id, label in labels.items()},
        )
        for user in users
    )


def _titled(ctx: Context, step: str, rows: DataFrame) -> list[dict[str, Any]]:
    """The rows with title and genres, in order of `place`; without titles where there is no table of items. A few rows."""
    if c.ITEMS in ctx.inputs[step].output_versions:
        items = ctx.read(c.ITEMS, step).select(c.ITEM_ID, "title", F.col("fields")["genres"].alias("genres"))
        rows = rows.join(items, on=c.ITEM_ID, how="left")
    else:
        rows = rows.withColumns({"title": F.lit(None).cast("string"), "genres": F.lit(None).cast("string")})
    return [row.asDict() for row in rows.orderBy(c.USER_ID, "place", c.ITEM_ID).collect()]


def _item(row: dict[str, Any]) -> Item:
    genres = tuple(row["genres"].split("|")) if row["genres"] else ()
    return Item(row[c.ITEM_ID], row["title"] or row[c.ITEM_ID], genres, row.get(c.VALUE))


def _behind(ctx: Context) -> list[Run]:
    """Every recorded run that this report builds on, in the order in which they ran."""
    recorded = {run.run_id: run for run in ctx.lake.runs()} | {run.run_id: run for run in ctx.inputs.values()}
    found: dict[str, Run] = {}
    queue = [run.run_id for run in ctx.inputs.values()]
    while queue:
        run = recorded.get(queue.pop())
        if run is not None and run.run_id not in found:
            found[run.run_id] = run
            queue.extend(run.upstream.values())
    return sorted(found.values(), key=lambda run: (run.started_at, run.run_id))


def _title(ctx: Context, behind: list[Run]) -> str:
    return next((str(run.config["dataset"]) for run in behind if run.stage == "ingest" and run.config.get("dataset")), ctx.pipeline)


def _data(ctx: Context, job: Job, evaluations: tuple[Evaluation, ...], behind: list[Run]) -> str:
    data = ctx.inputs[job.evaluation[0]].summary.get("data", {})
    models = len({value.run_id for evaluation in evaluations for value in evaluation.values})
    size = f"{data['rows']:,} events of {data['users']:,} users and {data['items']:,} items. " if "rows" in data else ""
    if any(run.stage == "ingest" and run.summary.get("generated") for run in behind):
        size = f"Generated data, not the real set: {size}"
    return f"{size}{models} models, each measured on events that it was not trained on, with 95 % intervals."


def _facts(ctx: Context, evaluations: tuple[Evaluation, ...], trainings: tuple[Training, ...]) -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    splits = "; ".join(dict.fromkeys(f"{e.split} ({e.rule}), measured on its {e.part} part" for e in evaluations))
    trained = "; ".join(f"{training.name}: {', '.join(training.facts)}" for training in trainings if training.facts)
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "Split": splits, "Seed": str(ctx.seed),
        "Machine": f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.machine()}, {platform.system()}",
        "Spark": ctx.env.spark.master,
        **({"Training": trained} if trained else {}),
        "Versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "Code": next(iter({run.code_version for run in ctx.inputs.values()})),
        "Run": ctx.run_id,
        "Written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ctx.now)),
    }

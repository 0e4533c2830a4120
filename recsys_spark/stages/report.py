"""Evaluations, training curves and example users -> `report.html` in the run's folder, one file
that needs no network; a copy with the step's name lies beside the folder of the runs.
"""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pyspark.sql import functions as F

from recsys_spark.core import artifacts, log
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import profile
from recsys_spark.metrics import glossary
from recsys_spark.metrics.tasks import RANKING
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import TRAINED, Context, Outcome, StepOf
from recsys_spark.report import html, results
from recsys_spark.report.content import Evaluation, Example, Fitted, Page, Profile, Training
from recsys_spark.report.terminal import PAGE, latest_page
from recsys_spark.stages.bridge import artefact
from recsys_spark.stages.results import examples, measured

logger = log.get(__name__)
CURVES = "metrics.jsonl"
PACKAGES = ("pyspark", "delta-spark", "torch", "horovod", "petastorm", "pyarrow", "numpy")


class Job(context.Job):
    stage: Literal["report"] = "report"
    evaluation: Annotated[tuple[str, ...], StepOf("evaluate")] = Field(min_length=1)
    # Steps whose curves are drawn
    trained: Annotated[tuple[str, ...], StepOf(*TRAINED)] = ()
    example_users: int = Field(6, ge=0, le=100)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    _check(ctx, job)
    return {
        "evaluations": len(job.evaluation),
        "curves": len(job.trained),
        "example_users": job.example_users,
    }


def run(ctx: Context, job: Job) -> Outcome:
    _check(ctx, job)
    recorded = ctx.lake.runs()
    evaluations = tuple(_evaluation(ctx, step, recorded) for step in job.evaluation)
    trainings = tuple(
        training
        for training in map(_training, (ctx.inputs[step] for step in job.trained))
        if training is not None
    )
    shown = _examples(ctx, job, evaluations)
    behind = measured.behind(recorded, ctx.inputs.values())
    page = Page(
        title=measured.dataset(behind) or ctx.pipeline,
        data=_data(ctx, job, evaluations, behind),
        facts=tuple(_facts(ctx, evaluations, trainings).items()),
        evaluations=evaluations,
        trainings=trainings,
        examples=shown,
        steps=tuple((run.run_id, run.stage, run.ended_at - run.started_at) for run in behind),
        profile=_profile(ctx, job),
        fitted=_fitted(evaluations, {run.run_id: run for run in recorded}),
    )
    text = html.render(page)
    artifacts.write_text(ctx.run_dir / PAGE, text)
    artifacts.write_text(latest_page(Path(ctx.env.runs), ctx.step), text)
    logger.info(log.fields(stage="report", path=ctx.run_dir / PAGE))
    return Outcome(
        summary={
            "evaluations": len(evaluations),
            "curves": len(trainings),
            "example_users": len(shown),
        }
    )


def _check(ctx: Context, job: Job) -> None:
    for step in job.evaluation:
        if ctx.inputs[step].stage != "evaluate":
            raise ConfigError(
                f"step {ctx.step}, evaluation",
                found=f"{step}, which is a {ctx.inputs[step].stage} step",
                expected="steps of stage evaluate",
            )


def _evaluation(ctx: Context, step: str, recorded: list[Run]) -> Evaluation:
    run = ctx.inputs[step]
    rows = ctx.read(c.METRICS, step).where(F.col(c.RUN_ID) == run.run_id).collect()
    values = measured.values([row.asDict() for row in rows], run)
    return measured.evaluation(run, values, recorded)


def _training(run: Run) -> Training | None:
    """The epochs of a run; None for a run without curves (closed form, or Spark). Raises DataError
    for a file that is truncated or of another format.
    """
    path = Path(run.run_dir) / CURVES
    if not path.is_file():
        return None
    try:
        epochs = tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        monitor = (run.config.get("train") or {}).get("monitor") or (
            "rmse" if "rmse" in epochs[0] else "ndcg@10"
        )
    except (ValueError, IndexError) as problem:
        raise DataError(
            str(path),
            found=str(problem),
            expected="one JSON object a line",
            remedy=f"rerun step {run.step}",
        ) from None
    facts = []
    if run.summary.get("examples_per_s"):
        facts.append(f"{run.summary['examples_per_s']:,.0f} examples/s")
    if run.summary.get("num_workers"):
        facts.append(f"{run.summary.get('engine', '')} on {run.summary['num_workers']}")
    return Training(
        run.step,
        str(run.config.get("model", run.step)),
        monitor,
        monitor in glossary.LOWER_IS_BETTER,
        epochs,
        tuple(facts),
        run.summary.get("best_epoch"),
    )


def _fitted(evaluations: tuple[Evaluation, ...], by_id: dict[str, Run]) -> tuple[Fitted, ...]:
    """Each measured model once, in the order of the tables."""
    fitted: dict[str, Fitted] = {}
    for evaluation in evaluations:
        for task in results.tasks(evaluation.values):
            for row in results.table(evaluation.values, task).rows:
                scored = by_id.get(row.run_id)
                step = str(scored.config.get("model")) if scored else ""
                model = by_id.get(scored.upstream.get(step, "")) if scored else None
                if model is not None and model.run_id not in fitted:
                    fitted[model.run_id] = _how(model, row.label)
    return tuple(fitted.values())


def _how(model: Run, label: str) -> Fitted:
    facts, settings = model.summary, artefact.settings(model)
    fit = "train+valid" if model.config.get("refit") else model.config.get("fit", c.TRAIN)
    return Fitted(
        run_id=model.run_id,
        label=label,
        settings=tuple((name, _brief(value)) for name, value in settings.items() if value != ""),
        chosen=f"{facts['trials']} trials on validation" if "trials" in facts else "as written",
        fit=str(fit),
        seconds=model.ended_at - model.started_at,
        peak_bytes=int(facts.get("peak_memory_bytes", 0)),
    )


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _examples(ctx: Context, job: Job, evaluations: tuple[Evaluation, ...]) -> tuple[Example, ...]:
    """Example users of the first evaluation that ranks whole catalogues."""
    shown = next(
        (e for e in evaluations if any(value.task == RANKING.name for value in e.values)), None
    )
    if shown is None or job.example_users == 0:
        return ()
    run = ctx.inputs[shown.name]
    events = ctx.read(c.SPLITS, shown.name).where(
        F.col(c.RUN_ID) == run.upstream[run.config["source"]]
    )
    items = ctx.read(c.ITEMS, shown.name) if c.ITEMS in run.output_versions else None
    kind = run.summary.get("query_kind", "user")
    lists = ctx.read(c.RECOMMENDATIONS, shown.name).where(F.col(c.QUERY_KIND) == kind)
    ranked = examples.Ranked(events, shown.part, lists, items, kind)
    labels = {row.run_id: row.label for row in results.table(shown.values, RANKING.name).rows}
    return examples.examples(
        ranked, examples.draw(ranked.held, job.example_users, ctx.seed), labels
    )


def _profile(ctx: Context, job: Job) -> Profile:
    """Of the events that the first evaluation was split from."""
    step = job.evaluation[0]
    run = ctx.inputs[step]
    events = ctx.read(c.SPLITS, step).where(F.col(c.RUN_ID) == run.upstream[run.config["source"]])
    return profile.profile(events)


def _data(ctx: Context, job: Job, evaluations: tuple[Evaluation, ...], behind: list[Run]) -> str:
    models = len({value.run_id for evaluation in evaluations for value in evaluation.values})
    size = measured.size(ctx.inputs[job.evaluation[0]], behind)
    return (
        f"{size}{models} models, each measured on events that it was not trained on, with "
        "95 % intervals."
    )


def _facts(
    ctx: Context, evaluations: tuple[Evaluation, ...], trainings: tuple[Training, ...]
) -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    splits = "; ".join(
        dict.fromkeys(f"{e.split} ({e.rule}), measured on its {e.part} part" for e in evaluations)
    )
    trained = "; ".join(
        f"{training.name}: {', '.join(training.facts)}" for training in trainings if training.facts
    )
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "Split": splits,
        "Seed": str(ctx.seed),
        "Machine": f"{os.cpu_count()} cores, {memory:.0f} "
        f"GB, {platform.machine()}, {platform.system()}",
        "Spark": ctx.env.spark.master,
        **({"Training": trained} if trained else {}),
        "Versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "Code": next(iter({run.code_version for run in ctx.inputs.values()})),
        "Run": ctx.run_id,
        "Written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ctx.now)),
    }

"""A trained model or baseline -> `recommendations` of the users of a split, or `predictions` of the
rows of a part.

A user without history, or without a vector in an index that cannot fold in, is cold: gets the most
popular items (or the index's own fallback), and is counted; so is one whose vector was made from
the history. What the lists are made from: scored.py.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.contracts import Run, Seen
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.etl import layout as layouts
from recsys_spark.metrics.tasks import OF_MODELS, RANKING, TASKS
from recsys_spark.models import registry
from recsys_spark.pipeline import context, lineage
from recsys_spark.pipeline.context import TRAINED, Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.scoring import index, scorer
from recsys_spark.scoring.queries import CELLS, COLD, FOLDED, PREDICTION
from recsys_spark.stages.bridge import artefact, configured, incremental
from recsys_spark.stages.bridge.scored import Scoring

logger = log.get(__name__)
STAGE_VERSION = 2  # 1 gave queries that were folded in together each other's vectors


class Job(context.Job):
    stage: Literal["score"] = "score"
    model: Annotated[str, StepOf(*TRAINED)]
    source: Annotated[str, StepOf("prepare")]  # on which the model was trained
    # now: lists for use, from all events of the split
    part: Literal["valid", "test", "now"] = "test"
    seen: Seen = "leave_out"  # what a query has met is left out of its list, or may be in it
    k: int = Field(20, ge=1, le=1000)
    # of the same split and part: rank those alone, all of them; `k` plays no part. Of united lists
    # the k best are kept
    candidates: Annotated[str | None, StepOf("candidates")] = None
    # part now: lists of this model that the step made before stay, where nothing changed in a query
    changed: bool = Field(False, exclude_if=lambda changed: not changed)
    task: str = ""  # a kind of metrics/tasks.py; empty: what the model is for; any model can rank
    partitions: int = Field(0, ge=0)  # of the queries; 0: as many as the cluster runs tasks at once

    @model_validator(mode="after")
    def _of_now(self) -> Job:
        if self.changed and (self.part != c.NOW or self.candidates is not None):
            raise ValueError("changed: true is of lists for now, of all items: set part: now")
        return self

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task and task not in OF_MODELS:
            raise ValueError(f"one of {', '.join(OF_MODELS)}, or empty{nearest(task, OF_MODELS)}")
        return task


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """The model was trained on the split, not on the part to be scored, and has the task."""
    job: Any = step.job
    model = steps[job.model]
    if job.source not in configured.ancestors(model, steps):
        raise ConfigError(
            f"{where}.source",
            found=f"{job.source}, on which {job.model} is not trained",
            expected=f"the prepare step that {job.model} builds on",
        )
    if job.part == c.VALID and (setting := configured.fitted_on_validation(model, steps)):
        raise ConfigError(
            f"{where}.part",
            found=f"valid, on which {job.model} is fitted",
            expected="test",
            remedy=setting,
        )
    task, predicted = configured.task(job, steps), configured.predicts(model.job)
    if task not in (RANKING.name, predicted):
        raise ConfigError(
            f"{where}.task",
            found=f"{task}, of {job.model}, which is made for {predicted}",
            expected=" or ".join(dict.fromkeys((RANKING.name, predicted))),
        )
    if task == RANKING.name and configured.reads_items(model.job):
        raise ConfigError(
            f"{where}.task",
            found=f"ranking, of {job.model}, which reads items' profiles",
            expected="rating",
        )
    if job.part == c.NOW and task != RANKING.name:
        raise ConfigError(
            f"{where}.part",
            found=f"now, for a {task}",
            expected="a ranking, of the whole catalogue or of lists that were shown",
            remedy="set task: ranking",
        )
    configured.require_lists(step, steps, where)
    if job.candidates is None:
        return
    if task != RANKING.name:
        raise ConfigError(
            f"{where}.candidates",
            found=f"{job.candidates}, for {job.model}, which predicts {task}s",
            expected="a model that ranks",
            remedy="leave out candidates, or set task: ranking",
        )
    configured.require_candidates(step, steps, where, source=job.source, part=job.part)


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError for a model that was trained on another split or on the part to be scored;
    DataError for an empty split.
    """
    began = time.monotonic()
    model = checked(ctx, job)
    task, folder = _task(job, model), artefact.folder(model)
    # A broken artefact is named here, not by a worker in the middle of a job
    scorer.load(folder, k=1, seed=0)
    scoring = Scoring(
        ctx, job.source, job.part, folder, job.k, job.partitions, job.candidates, job.seen
    )
    if job.part == c.NOW and artefact.folds_in(folder):
        scoring = replace(scoring, stale=incremental.since_fitted(ctx, model, job.source))
    score = _recommend if TASKS[task].scored == "lists" else _predict
    tables, facts = score(ctx, job, model, scoring)
    seconds = time.monotonic() - began
    facts = {
        "model": model.summary["model"],
        "task": task,
        "part": job.part,
        **facts,
        "seconds": round(seconds, 1),
    }
    logger.info(log.fields(stage="score", **facts))
    if facts["cold"]:
        logger.warning(log.fields(stage="score", cold=facts["cold"], scored_by=facts["fallback"]))
    return Outcome(dict(ctx.inputs[job.source].output_versions) | tables, summary=facts)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    model, prepared = checked(ctx, job), ctx.inputs[job.source].summary
    if TASKS[_task(job, model)].scored == "rows":
        return {"model": model.summary["model"], "predictions": int(prepared[job.part])}
    facts = {"model": model.summary["model"], "worker_bytes": 600_000_000 + CELLS * 12}
    if job.candidates is not None:
        offered = ctx.inputs[job.candidates].summary
        return facts | {"queries": int(offered["queries"]), "rows": int(offered["rows"])}
    return facts | {"queries": int(prepared["users"]), "rows": int(prepared["users"]) * job.k}


def _recommend(
    ctx: Context, job: Job, model: Run, scoring: Scoring
) -> tuple[dict[str, int], dict[str, Any]]:
    prepared = ctx.inputs[job.source].summary
    held_out = job.part != c.NOW and prepared.get("held_out")
    asked = prepared[job.part] if job.part != c.NOW else 0
    asked = asked or prepared.get(f"{job.part}_fold_in")
    if not prepared["users"] or (held_out and not asked):
        raise DataError(
            f"split {scoring.split}, part {job.part}",
            found="no user",
            expected="at least one",
            remedy="hold out more by the rule of the prepare step, or loosen its filters",
        )
    same = incremental.same(ctx, job, STAGE_VERSION) if job.changed else None
    if same is not None:
        scoring = replace(scoring, only=same.changed)
    ranked = scoring.lists().persist()
    rows = _listed(ctx, job, ranked, model, scoring.query_kind)
    try:
        version = ctx.lake.replace(
            c.RECOMMENDATIONS,
            rows if same is None else rows.unionByName(same.lists),
            {c.RUN_ID: ctx.run_id},
        )
        length = F.size(c.ITEM_IDX)  # counted from what the write has computed
        counts = ranked.agg(
            F.count("*"),
            F.sum(F.col(COLD).cast("int")),
            F.sum(F.col(FOLDED).cast("int")),
            F.sum((length < job.k).cast("int")),
            F.sum(length),
            F.max(length),
        )
        users, cold, folded, short, num_rows, longest = (
            int(value or 0) for value in counts.collect()[0]
        )
        stayed = same.counts() if same is not None else (0, 0)
    finally:
        ranked.unpersist()
    lists: dict[str, Any] = {}
    if job.candidates is None or scoring.in_united_lists:
        lists |= {"k": job.k, "short_lists": short}
    else:
        lists["candidates"] = longest
    if job.candidates is not None:
        lists["among"] = ctx.inputs[job.candidates].summary["source"]
    facts = {
        "queries": users + stayed[0],
        "rows": num_rows + stayed[1],
        **({"kept": stayed[0], incremental.VERSION: STAGE_VERSION} if job.changed else {}),
        **lists,
        "cold": cold,
        "folded_in": folded,
        "fallback": "popularity",
    }
    return {c.RECOMMENDATIONS: version}, facts


def _listed(ctx: Context, job: Job, ranked: DataFrame, model: Run, query_kind: str) -> DataFrame:
    """One row an item of a list, with raw ids."""
    entries = ranked.select(
        c.QUERY_ID, F.posexplode(F.arrays_zip(c.ITEM_IDX, c.SCORE)).alias("place", "entry")
    )
    items = ctx.read(c.ITEM_INDEX, job.source)
    rows = entries.withColumn(c.ITEM_IDX, F.col("entry").getField(c.ITEM_IDX)).join(
        items, on=c.ITEM_IDX, how="inner"
    )
    return rows.select(
        c.QUERY_ID,
        F.lit(query_kind).alias(c.QUERY_KIND),
        c.ITEM_ID,
        F.col("entry").getField(c.SCORE).alias(c.SCORE),
        (F.col("place") + 1).alias(c.RANK),
        F.lit(ctx.run_id).alias(c.RUN_ID),
        F.lit(model.summary["model"]).alias(c.MODEL),
        F.timestamp_micros(F.lit(round(ctx.now * 1e6))).alias(c.SCORED_AT),
    )


def _predict(
    ctx: Context, job: Job, model: Run, scoring: Scoring
) -> tuple[dict[str, int], dict[str, Any]]:
    version = ctx.lake.replace(
        c.PREDICTIONS,
        scoring.predictions().select(
            F.lit(ctx.run_id).alias(c.RUN_ID),
            F.lit(model.summary["model"]).alias(c.MODEL),
            F.lit(scoring.split).alias(c.SPLIT),
            F.lit(_task(job, model)).alias(c.TASK),
            c.ROW_KEY,
            c.QUERY_ID,
            c.ITEM_ID,
            c.LABEL,
            F.col(PREDICTION).alias(c.VALUE),
        ),
        {c.RUN_ID: ctx.run_id},
    )
    written = ctx.lake.read(c.PREDICTIONS, version).where(F.col(c.RUN_ID) == ctx.run_id).count()
    if not written:
        raise DataError(
            f"split {scoring.split}, part {job.part}",
            found="no rows",
            expected="at least one",
            remedy="hold out more by the rule of the prepare step, or loosen its filters",
        )
    other = "user" if scoring.profiles_by() == "item" else "item"
    fallback = f"what is known of the {other}, and of fields"
    return {c.PREDICTIONS: version}, {
        "rows": written,
        "cold": _cold_rows(scoring),
        "fallback": fallback,
    }


def _cold_rows(scoring: Scoring) -> int:
    """Rows of the part whose user the model was not fitted on; of a model of profiles, whose user
    (or item) has none.
    """
    events, vectors, by = scoring.events(), scoring.vectors(), scoring.profiles_by()
    if by is not None:
        side, _ = layouts.sides(by)
        profiled = events.where(F.col(c.PART).isin(*c.BEFORE[scoring.part])).select(side).distinct()
        return (
            events.where(F.col(c.PART) == scoring.part)
            .join(profiled, on=side, how="left_anti")
            .count()
        )
    known = events.where(F.col(c.PART) == c.TRAIN) if vectors is None else vectors
    return (
        events.where(F.col(c.PART) == scoring.part)
        .join(known.select(c.QUERY_IDX).distinct(), on=c.QUERY_IDX, how="left_anti")
        .count()
    )


def _task(job: Job, model: Run) -> str:
    return job.task or artefact.task(model)


def checked(ctx: Context, job: Job) -> Run:
    """The run of the model. Refuses what would score events that the model has been fitted on."""
    model = ctx.inputs[job.model]
    # Later events of a test part may be among those that an earlier model was trained on
    now = job.part == c.NOW
    lineage.require_trained_on(ctx, job.model, source=job.source, earlier=now)
    if job.part == c.VALID and (
        "valid" in str(model.config.get("fit", "train")) or model.config.get("refit")
    ):
        setting = "set fit: train" if "fit" in model.config else "leave out refit"
        raise ConfigError(
            f"step {ctx.step}, part",
            found="valid, on which the model was fitted",
            expected="test",
            remedy=f"{setting} in step {job.model}",
        )
    if job.task not in ("", RANKING.name, artefact.task(model)):
        can = dict.fromkeys((RANKING.name, artefact.task(model)))
        raise ConfigError(
            f"step {ctx.step}, task",
            found=f"{job.task}, of {job.model}, which is made for {artefact.task(model)}",
            expected=" or ".join(can),
            remedy=f"leave out task, or score a model that predicts {job.task}s",
        )
    if (
        job.task == RANKING.name
        and (artefact.folder(model) / index.FILE).exists()
        and index.facts(artefact.folder(model)).dampen is not None
    ):
        raise ConfigError(
            f"step {ctx.step}, task",
            found=f"ranking, by {job.model}, which predicts ratings from neighbours",
            expected="rating",
            remedy="train it with task: ranking to rank",
        )
    if _task(job, model) == RANKING.name and model.stage == "train_deep":
        kind = registry.find(model.summary["model"])
        if kind.layout == "profile" and kind.by_of(model.config.get("config", {})) == "item":
            raise ConfigError(
                f"step {ctx.step}, task",
                found=f"ranking, of {job.model}, which reads items' profiles",
                expected="rating",
                remedy="leave out task, or score a model of users' profiles",
            )
    offered = ctx.inputs[job.candidates] if job.candidates else None
    artefact.require_features(model, offered, f"step {ctx.step}, candidates")
    if job.candidates is not None:
        lineage.require_candidates(ctx, job.candidates, source=job.source, part=job.part)
        if (task := _task(job, model)) != RANKING.name:
            raise ConfigError(
                f"step {ctx.step}, candidates",
                found=f"{job.candidates}, for {job.model}, which predicts {task}s",
                expected="a model that ranks",
                remedy="leave out candidates, set task: ranking, or score another model",
            )
    return model

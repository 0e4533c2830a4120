"""A trained model or baseline -> `recommendations` of the users of a split, or `predictions` of the rows of a part.

A user without history, or without a vector in an index that cannot fold in, is cold: gets the most popular items (or the index's own
fallback), and is counted; so is one whose vector was made from the history. What the lists are made from: scored.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import layouts
from recsys_spark.models import registry
from recsys_spark.scoring import index, scorer
from recsys_spark.scoring.queries import CELLS, COLD, FOLDED, PREDICTION
from recsys_spark.stages import candidates, context
from recsys_spark.stages.context import Context, OptionalRef, Outcome, Ref
from recsys_spark.stages.scored import Scoring, arrow_batches
from recsys_spark.stages.train_baseline import INDEX

logger = log.get(__name__)
TRAINED = ("train_baseline", "train_als", "train_deep")


class Job(context.Job):
    stage: Literal["score"] = "score"
    model: Ref  # a train_* step
    source: Ref  # the prepare step it was trained on
    part: Literal["valid", "test"] = "test"
    k: int = Field(20, ge=1, le=1000)
    candidates: OptionalRef = None  # a candidates step of the same split and part: rank those alone, all of them; `k` plays no part
    task: Literal["", "ranking", "rating", "click"] = ""  # empty: what the model is for; any model can rank
    partitions: int = Field(0, ge=0)  # of the queries; 0: as many as the cluster runs tasks at once


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError for a model that was trained on another split or on the part to be scored; DataError for an empty split."""
    began = time.monotonic()
    model = _check(ctx, job)
    task, folder = _task(job, model), _folder(model)
    scorer.load(folder, k=1, seed=0)  # a broken artefact is named here, not by a worker in the middle of a job
    scoring = Scoring(ctx, job.source, job.part, folder, job.k, job.partitions, job.candidates)
    with arrow_batches(ctx):
        tables, facts = (_recommend if task == "ranking" else _predict)(ctx, job, model, scoring)
    seconds = time.monotonic() - began
    facts = {"model": model.summary["model"], "task": task, "part": job.part, **facts, "seconds": round(seconds, 1)}
    logger.info(log.fields(stage="score", **facts))
    if facts["cold"]:
        logger.warning(log.fields(stage="score", cold=facts["cold"], scored_by=facts["fallback"]))
    return Outcome(dict(ctx.inputs[job.source].output_versions) | tables, summary=facts)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    model, prepared = _check(ctx, job), ctx.inputs[job.source].summary
    if _task(job, model) != "ranking":
        return {"model": model.summary["model"], "predictions": int(prepared[job.part])}
    told = {"model": model.summary["model"], "worker_bytes": 600_000_000 + CELLS * 12}
    if job.candidates is not None:
        offered = ctx.inputs[job.candidates].summary
        return told | {"queries": int(offered["queries"]), "rows": int(offered["rows"])}
    return told | {"queries": int(prepared["users"]), "rows": int(prepared["users"]) * job.k}


def _recommend(ctx: Context, job: Job, model: Run, scoring: Scoring) -> tuple[dict[str, int], dict[str, Any]]:
    prepared = ctx.inputs[job.source].summary
    if not prepared["users"] or (prepared.get("users_held_out") and not prepared[job.part]):
        raise DataError(f"split {scoring.split}, part {job.part}", found="no user", expected="at least one",
                        remedy="change the prepare step")
    ranked = scoring.lists().persist()
    try:
        version = ctx.lake.replace(c.RECOMMENDATIONS, _listed(ctx, job, ranked, model), {c.RUN_ID: ctx.run_id})
        length = F.size(c.ITEM_IDX)  # counted from what the write has computed
        counts = ranked.agg(F.count("*"), F.sum(F.col(COLD).cast("int")), F.sum(F.col(FOLDED).cast("int")),
                            F.sum((length < job.k).cast("int")), F.sum(length), F.max(length))
        users, cold, folded, short, rows, longest = (int(value or 0) for value in counts.collect()[0])
    finally:
        ranked.unpersist()
    lists = {"k": job.k, "short_lists": short} if job.candidates is None else {
        "candidates": longest, "among": ctx.inputs[job.candidates].summary["source"]}
    facts = {"queries": users, "rows": rows, **lists, "cold": cold, "folded_in": folded, "fallback": "popularity"}
    return {c.RECOMMENDATIONS: version}, facts


def _listed(ctx: Context, job: Job, ranked: DataFrame, model: Run) -> DataFrame:
    """One row an item of a list, with raw ids."""
    entries = ranked.select(c.USER_ID, F.posexplode(F.arrays_zip(c.ITEM_IDX, c.SCORE)).alias("place", "entry"))
    items = ctx.read(c.ITEM_INDEX, job.source)
    rows = entries.withColumn(c.ITEM_IDX, F.col("entry").getField(c.ITEM_IDX)).join(items, on=c.ITEM_IDX, how="inner")
    return rows.select(
        F.col(c.USER_ID).alias(c.QUERY_ID), F.lit("user").alias(c.QUERY_KIND), c.ITEM_ID, F.col("entry").getField(c.SCORE).alias(c.SCORE),
        (F.col("place") + 1).alias(c.RANK), F.lit(ctx.run_id).alias(c.RUN_ID), F.lit(model.summary["model"]).alias(c.MODEL),
        F.timestamp_micros(F.lit(round(ctx.now * 1e6))).alias(c.SCORED_AT),
    )


def _predict(ctx: Context, job: Job, model: Run, scoring: Scoring) -> tuple[dict[str, int], dict[str, Any]]:
    version = ctx.lake.replace(c.PREDICTIONS, scoring.predictions().select(
        F.lit(ctx.run_id).alias(c.RUN_ID), F.lit(model.summary["model"]).alias(c.MODEL), F.lit(scoring.split).alias(c.SPLIT),
        F.lit(_task(job, model)).alias(c.TASK), c.ROW_KEY, c.USER_ID, c.ITEM_ID, c.LABEL, F.col(PREDICTION).alias(c.VALUE)),
        {c.RUN_ID: ctx.run_id})
    written = ctx.lake.read(c.PREDICTIONS, version).where(F.col(c.RUN_ID) == ctx.run_id).count()
    if not written:
        raise DataError(f"split {scoring.split}, part {job.part}", found="no rows", expected="at least one",
                        remedy="change the prepare step")
    other = "user" if scoring.profiles_by() == "item" else "item"
    fallback = f"what is known of the {other}, and of fields"
    return {c.PREDICTIONS: version}, {"rows": written, "cold": _cold_rows(scoring), "fallback": fallback}


def _cold_rows(scoring: Scoring) -> int:
    """Rows of the part whose user the model was not fitted on; of a model of profiles, whose user (or item) has none."""
    events, vectors, by = scoring.events(), scoring.vectors(), scoring.profiles_by()
    if by is not None:
        mine, _ = layouts.sides(by)
        profiled = events.where(F.col(c.PART).isin(*c.BEFORE[scoring.part])).select(mine).distinct()
        return events.where(F.col(c.PART) == scoring.part).join(profiled, on=mine, how="left_anti").count()
    known = events.where(F.col(c.PART) == c.TRAIN) if vectors is None else vectors
    return events.where(F.col(c.PART) == scoring.part).join(known.select(c.USER_IDX).distinct(), on=c.USER_IDX, how="left_anti").count()


def _folder(model: Run) -> Path:
    folder = Path(model.run_dir)
    return folder / (model.summary["checkpoint"] if model.stage == "train_deep" else INDEX)


def _task(job: Job, model: Run) -> str:
    return job.task or _made_for(model)


def _made_for(model: Run) -> str:
    return str(model.summary["task"]) if "task" in model.summary else registry.find(model.summary["model"]).task


def _check(ctx: Context, job: Job) -> Run:
    """The run of the model. Refuses what would score events that the model has been fitted on."""
    model, source = ctx.inputs[job.model], ctx.inputs[job.source]
    if model.stage not in TRAINED:
        raise ConfigError(f"step {ctx.step}, model", found=f"{job.model}, a step of stage {model.stage}",
                          expected=f"one of stage {', '.join(TRAINED)}")
    if source.run_id not in model.upstream.values() and source.run_id not in _ancestors(ctx, model):
        raise ConfigError(f"step {ctx.step}, source", found=f"{job.source}, on which {job.model} was not trained",
                          expected=f"the prepare step that {job.model} builds on", remedy="train the model on this split first")
    if job.part == c.VALID and ("valid" in str(model.config.get("fit", "train")) or model.config.get("refit")):
        setting = "set fit: train" if "fit" in model.config else "leave out refit"
        raise ConfigError(f"step {ctx.step}, part", found="valid, on which the model was fitted", expected="test",
                          remedy=f"{setting} in step {job.model}")
    if job.task not in ("", "ranking", _made_for(model)):
        can = dict.fromkeys(("ranking", _made_for(model)))
        raise ConfigError(f"step {ctx.step}, task", found=f"{job.task}, of {job.model}, which is made for {_made_for(model)}",
                          expected=" or ".join(can), remedy=f"leave out task, or score a model that predicts {job.task}s")
    if job.task == "ranking" and (_folder(model) / index.FILE).exists() and index.facts(_folder(model)).dampen is not None:
        raise ConfigError(f"step {ctx.step}, task", found=f"ranking, by {job.model}, which predicts ratings from neighbours",
                          expected="rating", remedy="train it with task: ranking to rank")
    if _task(job, model) == "ranking" and model.stage == "train_deep":
        kind = registry.find(model.summary["model"])
        if kind.layout == "profile" and kind.by_of(model.config.get("config", {})) == "item":
            raise ConfigError(f"step {ctx.step}, task", found=f"ranking, of {job.model}, which reads items' profiles", expected="rating",
                              remedy="leave out task, or score a model of users' profiles")
    if job.candidates is not None:
        candidates.require(ctx, job.candidates, source=job.source, part=job.part)
        if (task := _task(job, model)) != "ranking":
            raise ConfigError(f"step {ctx.step}, candidates", found=f"{job.candidates}, for {job.model}, which predicts {task}s",
                              expected="a model that ranks", remedy="leave out candidates, set task: ranking, or score another model")
    return model


def _ancestors(ctx: Context, run: Run) -> set[str]:
    """run_ids of all runs that this one builds on."""
    known = {other.run_id: other for other in ctx.lake.runs()}
    found, queue = set(), list(run.upstream.values())
    while queue:
        run_id = queue.pop()
        if run_id not in found:
            found.add(run_id)
            queue += known[run_id].upstream.values() if run_id in known else []
    return found

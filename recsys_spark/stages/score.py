"""A trained model or baseline -> `recommendations` of every user of a split, or `predictions` of the rows of a part.

History: the events of all parts before the scored one. It is what a list leaves out, and what models of profiles score from.
A user without history, or without a vector in the index, is cold: gets the most popular items (or the index's own
fallback), and is counted. One scorer a Python worker, one thread each; lists stay arrays until they are written.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines import artifact
from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.models import registry
from recsys_spark.scoring import index, scorer
from recsys_spark.scoring.scorer import COLD, HISTORY, PREDICTION, VECTOR
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref
from recsys_spark.stages.train_baseline import INDEX

logger = log.get(__name__)
BEFORE = {c.VALID: (c.TRAIN,), c.TEST: (c.TRAIN, c.VALID)}
BATCH_ROWS = 4096  # of an Arrow batch: with histories of some hundred items a few MB
TRAINED = ("train_baseline", "train_als", "train_deep")


class Job(context.Job):
    stage: Literal["score"] = "score"
    model: Ref  # a train_* step
    source: Ref  # the prepare step it was trained on
    part: Literal["valid", "test"] = "test"
    k: int = Field(20, ge=1, le=1000)
    partitions: int = Field(0, ge=0)  # of the queries; 0: as many as the cluster runs tasks at once


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError for a model that was trained on another split or on the part to be scored; DataError for an empty split."""
    began = time.monotonic()
    model = _check(ctx, job)
    task, folder = _task(model), _folder(model)
    scorer.load(folder, k=1, seed=0)  # a broken artefact is named here, not by a worker in the middle of a job
    before, size = ctx.spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch"), str(BATCH_ROWS)
    ctx.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", size)
    try:
        tables, facts = (_predict if task == "rating" else _recommend)(ctx, job, model, folder)
    finally:
        ctx.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(before))
    seconds = time.monotonic() - began
    facts = {"model": model.summary["model"], "task": task, "part": job.part, **facts, "seconds": round(seconds, 1)}
    logger.info(log.fields(stage="score", **facts))
    if facts["cold"]:
        logger.warning(log.fields(stage="score", cold=facts["cold"], scored_by=facts["fallback"]))
    return Outcome(dict(ctx.inputs[job.source].output_versions) | tables, summary=facts)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    model, prepared = _check(ctx, job), ctx.inputs[job.source].summary
    if _task(model) == "rating":
        return {"model": model.summary["model"], "predictions": int(prepared[job.part])}
    return {"model": model.summary["model"], "queries": int(prepared["users"]), "rows": int(prepared["users"]) * job.k,
            "worker_bytes": 600_000_000 + scorer.CELLS * 12}


def _recommend(ctx: Context, job: Job, model: Run, folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    queries = _queries(ctx, job, folder)
    settings = scorer.Settings(str(folder), job.k, seeds.derive(ctx.seed, "score"), _fallback(ctx, job, folder), passed=(c.USER_ID,))
    shape = f"{c.USER_ID} string, {c.ITEM_IDX} array<int>, {c.SCORE} array<float>, {COLD} boolean"
    ranked = queries.mapInArrow(partial(scorer.rank_batches, settings), shape).persist()
    try:
        length = F.size(c.ITEM_IDX)
        counts = ranked.agg(F.count("*"), F.sum(F.col(COLD).cast("int")), F.sum((length < job.k).cast("int")), F.sum(length))
        users, cold, short, rows = (int(value or 0) for value in counts.collect()[0])
        if not users:
            raise DataError(f"split {_split(ctx, job)}", found="no user", expected="at least one", remedy="change the prepare step")
        version = ctx.lake.replace(c.RECOMMENDATIONS, _listed(ctx, job, ranked, model), {c.RUN_ID: ctx.run_id})
    finally:
        ranked.unpersist()
    facts = {"queries": users, "rows": rows, "k": job.k, "short_lists": short, "cold": cold, "fallback": "popularity"}
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


def _queries(ctx: Context, job: Job, folder: Path) -> DataFrame:
    """(user_idx, user_id, history array<int>[, vector]): every user of the split."""
    partitions = job.partitions or ctx.spark.sparkContext.defaultParallelism
    known = F.when(F.col(c.PART).isin(*BEFORE[job.part]), F.col(c.ITEM_IDX))  # null, which collect_list leaves out, for later parts
    users = _events(ctx, job).repartition(partitions, c.USER_IDX).groupBy(c.USER_IDX).agg(
        F.first(c.USER_ID).alias(c.USER_ID), F.collect_list(known).alias(HISTORY))
    columns = [c.USER_IDX, c.USER_ID, HISTORY]
    vectors = _vectors(ctx, folder)
    if vectors is None:
        return users.select(*columns)
    return users.join(vectors, on=c.USER_IDX, how="left").select(*columns, VECTOR)


def _predict(ctx: Context, job: Job, model: Run, folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    rows = _events(ctx, job).where(F.col(c.PART) == job.part)
    key = F.concat_ws("|", c.USER_ID, c.ITEM_ID, c.TS).alias(c.ROW_KEY)
    rows = rows.select(key, c.USER_ID, c.ITEM_ID, c.USER_IDX, c.ITEM_IDX, F.col(c.VALUE).alias(c.LABEL))
    vectors = _vectors(ctx, folder)
    rows = rows if vectors is None else rows.join(vectors, on=c.USER_IDX, how="left")
    rows = rows.repartition(job.partitions or ctx.spark.sparkContext.defaultParallelism, c.USER_IDX)
    passed = (c.ROW_KEY, c.USER_ID, c.ITEM_ID, c.LABEL)
    settings = scorer.Settings(str(folder), job.k, ctx.seed, _fallback(ctx, job, folder), passed=passed)
    shape = f"{c.ROW_KEY} string, {c.USER_ID} string, {c.ITEM_ID} string, {c.LABEL} double, {PREDICTION} double"
    predicted = rows.mapInArrow(partial(scorer.predict_batches, settings), shape)
    version = ctx.lake.replace(c.PREDICTIONS, predicted.select(
        F.lit(ctx.run_id).alias(c.RUN_ID), F.lit(model.summary["model"]).alias(c.MODEL), F.lit(_split(ctx, job)).alias(c.SPLIT),
        F.lit("rating").alias(c.TASK), c.ROW_KEY, c.USER_ID, c.ITEM_ID, c.LABEL, F.col(PREDICTION).alias(c.VALUE)), {c.RUN_ID: ctx.run_id})
    written = ctx.lake.read(c.PREDICTIONS, version).where(F.col(c.RUN_ID) == ctx.run_id).count()
    if not written:
        raise DataError(f"split {_split(ctx, job)}, part {job.part}", found="no rows", expected="at least one",
                        remedy="change the prepare step")
    return {c.PREDICTIONS: version}, {"rows": written, "cold": _cold_rows(ctx, job, vectors), "fallback": "what is known of the item alone"}


def _cold_rows(ctx: Context, job: Job, vectors: DataFrame | None) -> int:
    """Rows of the part whose user the model was not fitted on."""
    events = _events(ctx, job)
    known = events.where(F.col(c.PART) == c.TRAIN) if vectors is None else vectors
    return events.where(F.col(c.PART) == job.part).join(known.select(c.USER_IDX).distinct(), on=c.USER_IDX, how="left_anti").count()


def _events(ctx: Context, job: Job) -> DataFrame:
    return ctx.read(c.SPLITS, job.source).where(F.col(c.SPLIT) == _split(ctx, job))


def _split(ctx: Context, job: Job) -> str:
    return str(ctx.inputs[job.source].summary["split"])


def _vectors(ctx: Context, folder: Path) -> DataFrame | None:
    """(user_idx, vector) of an index whose queries have vectors."""
    if not (folder / index.FILE).exists():
        return None
    facts = index.facts(folder)
    return ctx.spark.read.parquet(str(folder / facts.queries)) if facts.queries else None


def _fallback(ctx: Context, job: Job, folder: Path) -> str | None:
    """Counts of the history events, for a model that has no fallback of its own."""
    if (folder / index.FILE).exists() and index.facts(folder).fallback_scores:
        return None
    history = _events(ctx, job).where(F.col(c.PART).isin(*BEFORE[job.part]))
    counts = artifact.counts(history, int(ctx.inputs[job.source].summary["num_items"]))
    path = ctx.run_dir / "popularity.npy"
    np.save(path, counts)
    return str(path)


def _folder(model: Run) -> Path:
    folder = Path(model.run_dir)
    return folder / (model.summary["checkpoint"] if model.stage == "train_deep" else INDEX)


def _task(model: Run) -> str:
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
    if job.part == c.VALID and "valid" in str(model.config.get("fit", "train")):
        raise ConfigError(f"step {ctx.step}, part", found="valid, on which the model was fitted", expected="test",
                          remedy=f"set fit: train in step {job.model}")
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

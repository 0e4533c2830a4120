"""Spark ALS: choose its settings on validation (als_search.py), fit it, write its index artefact. The test part is never read."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines import als, artifact
from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.errors import DataError
from recsys_spark.stages import als_search, context
from recsys_spark.stages.als_search import Search
from recsys_spark.stages.context import Context, Outcome, Ref

logger = log.get(__name__)
INDEX = "index"  # folder in the run folder
VALUES_BYTES = 8  # a stored factor in Spark's memory, about


class Job(context.Job):
    stage: Literal["train_als"] = "train_als"
    source: Ref  # a prepare step
    config: als.Config = als.Config()
    search: Search | None = None  # none: `config` as it is
    fit: Literal["train", "train+valid"] = "train+valid"  # events of the final fit, after the choice on validation
    blocks: int = Field(4, ge=1)  # of users and of items; another number adds sums in another order


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when there is no training event, or no validation event for a search."""
    began = time.monotonic()
    prepared = ctx.inputs[job.source].summary
    num_items, chosen = int(prepared["num_items"]), job.config
    found: dict[str, Any] = {}
    events = _events(ctx, job).persist()
    try:
        if events.where(F.col(c.PART) == c.TRAIN).isEmpty():
            raise DataError(f"split {prepared['split']}", found="no training event", expected="at least one",
                            remedy="change the prepare step")
        if job.search is not None:
            chosen, found = als_search.choose(events, job.config, job.search, folder=ctx.run_dir, num_items=num_items, seed=ctx.seed,
                                              blocks=job.blocks)
        fitted_on = events if job.fit == "train+valid" else events.where(F.col(c.PART) == c.TRAIN)
        factors = als.fit(fitted_on, chosen, num_items=num_items, seed=ctx.seed, blocks=job.blocks)
        mean = np.full(num_items + 1, factors.mean, dtype=np.float32)
        artifact.write_dot(ctx.run_dir / INDEX, model="als", items=factors.items, queries=factors.users,
                           bias=None if chosen.implicit else mean, limits=None if chosen.implicit else _range(fitted_on),
                           popularity=artifact.counts(fitted_on, num_items) if chosen.implicit else mean)
    finally:
        events.unpersist()
    cold_items = num_items - int(np.abs(factors.items[1:]).any(axis=1).sum())
    facts = {"model": "als", **chosen.model_dump(), "fit": job.fit, **found, "cold_items": cold_items}
    seconds = round(time.monotonic() - began, 1)
    logger.info(log.fields(stage="train_als", **facts, seconds=seconds, index=ctx.run_dir / INDEX))
    task = "ranking" if chosen.implicit else "rating"
    return Outcome(tables=dict(ctx.inputs[job.source].output_versions), summary={**facts, "task": task, "seconds": seconds})


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Fits, and the memory of the largest model's factors."""
    prepared = ctx.inputs[job.source].summary
    rank = max(job.search.rank) if job.search else job.config.rank
    rows = int(prepared["num_users"]) + int(prepared["num_items"])
    fits = 1 + (job.search.trials if job.search else 0)
    return {"events": int(prepared[c.TRAIN]), "fits": fits, "factor_bytes": rows * rank * VALUES_BYTES}


def _events(ctx: Context, job: Job) -> DataFrame:
    name = ctx.inputs[job.source].summary["split"]
    events = ctx.read(c.SPLITS, job.source).where((F.col(c.SPLIT) == name) & (F.col(c.PART) != c.TEST))
    value = F.lit(1.0) if job.config.implicit else F.col(c.VALUE)
    return events.select(c.USER_IDX, c.ITEM_IDX, value.alias(c.VALUE), c.PART)


def _range(events: DataFrame) -> tuple[float, float]:
    """The least and the largest rating: predictions are clamped to them."""
    low, high = events.agg(F.min(c.VALUE), F.max(c.VALUE)).collect()[0]
    return float(low), float(high)

"""A trained model or baseline -> `similar_items`, the nearest items of each item, and
`item_vectors`, where the model has them.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import TRAINED, Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.scoring import scorer, similar, worker
from recsys_spark.scoring.queries import COLD
from recsys_spark.stages.bridge import artefact, configured

logger = log.get(__name__)
OF_IDX, VECTOR_ROWS = "of_idx", 4096  # vectors of a record batch
RANKED = f"{OF_IDX} int, {c.ITEM_IDX} array<int>, {c.SCORE} array<float>, {COLD} boolean"


class Job(context.Job):
    stage: Literal["similar_items"] = "similar_items"
    model: Annotated[str, StepOf(*TRAINED)]
    source: Annotated[str, StepOf("prepare")]  # on which the model was trained
    k: int = Field(20, ge=1, le=1000)


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """The model was trained on the split, whose index numbers its items."""
    job: Any = step.job
    if job.source not in configured.ancestors(steps[job.model], steps):
        raise ConfigError(
            f"{where}.source",
            found=f"{job.source}, on which {job.model} is not trained",
            expected=f"the prepare step that {job.model} builds on",
        )


def run(ctx: Context, job: Job) -> Outcome:
    """Raises ConfigError for a model that tells nothing of an item by itself."""
    began, model = time.monotonic(), ctx.inputs[job.model]
    folder, name = artefact.folder(model), str(model.summary["model"])
    loaded = scorer.load(folder, k=1, seed=0)
    vectors = similar.vectors(loaded)
    items = ctx.read(c.ITEM_INDEX, job.source).where(F.col(c.ITEM_IDX) <= loaded.num_items)
    tasks = ctx.spark.sparkContext.defaultParallelism
    ranked = ranked_like(items, folder, job.k, ctx.seed, tasks).persist()
    try:
        known = ranked.where(~F.col(COLD))
        version = ctx.lake.replace(
            c.SIMILAR_ITEMS, _listed(ctx, known, items, name), {c.RUN_ID: ctx.run_id}
        )
        counts = [frame.count() for frame in (ranked, known)]
    finally:
        ranked.unpersist()
    if not counts[1]:
        raise ConfigError(
            f"step {ctx.step}, model",
            found=f"{job.model} ({name}), which tells nothing of an item by itself",
            expected="a model with item vectors, or one that ranks by a history",
            remedy="name a step of als, ials, item_knn, ease, bpr_mf or a model of profiles",
        )
    tables = {c.SIMILAR_ITEMS: version}
    if vectors is not None:
        tables[c.ITEM_VECTORS] = _write_vectors(ctx, vectors.numpy(), items, name)
    summary = {
        "model": name,
        "items": counts[1],
        "unknown": counts[0] - counts[1],
        "k": job.k,
        "by": "vectors" if vectors is not None else "history",
        "dim": 0 if vectors is None else vectors.shape[1],
        "seconds": round(time.monotonic() - began, 1),
    }
    logger.info(log.fields(stage=job.stage, **summary))
    return Outcome(tables, summary=summary)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    items = int(ctx.inputs[job.source].summary["num_items"])
    return {"model": ctx.inputs[job.model].summary["model"], "rows": items * job.k}


def ranked_like(items: DataFrame, folder: Path, k: int, seed: int, tasks: int) -> DataFrame:
    """RANKED: the k nearest of these items (item_idx), by the model in the folder."""
    drawn, written = seeds.derive(seed, "similar"), worker.written(folder)
    rank = partial(similar.similar_batches, str(folder), k, drawn, written)
    numbers = items.select(F.col(c.ITEM_IDX).alias(OF_IDX)).repartition(tasks, OF_IDX)
    return numbers.mapInArrow(rank, RANKED)


def _listed(ctx: Context, ranked: DataFrame, items: DataFrame, model: str) -> DataFrame:
    """One row an item of a list, with raw ids."""
    entries = ranked.select(
        OF_IDX, F.posexplode(F.arrays_zip(c.ITEM_IDX, c.SCORE)).alias("place", "entry")
    ).withColumn(c.ITEM_IDX, F.col("entry").getField(c.ITEM_IDX))
    of = items.select(F.col(c.ITEM_ID).alias("of_id"), F.col(c.ITEM_IDX).alias(OF_IDX))
    rows = entries.join(items, on=c.ITEM_IDX).join(of, on=OF_IDX)
    return rows.select(
        F.col("of_id").alias(c.ITEM_ID),
        F.col(c.ITEM_ID).alias(c.SIMILAR_ID),
        F.col("entry").getField(c.SCORE).alias(c.SCORE),
        (F.col("place") + 1).alias(c.RANK),
        F.lit(ctx.run_id).alias(c.RUN_ID),
        F.lit(model).alias(c.MODEL),
    )


def _write_vectors(ctx: Context, vectors: NDArray[np.float32], items: DataFrame, model: str) -> int:
    stored = vector_table(ctx.spark, vectors, ctx.run_dir / "vectors.parquet")
    rows = stored.join(items, on=c.ITEM_IDX).select(
        c.ITEM_ID,
        c.VECTOR,
        F.lit(ctx.run_id).alias(c.RUN_ID),
        F.lit(model).alias(c.MODEL),
    )
    return ctx.lake.replace(c.ITEM_VECTORS, rows, {c.RUN_ID: ctx.run_id})


def vector_table(spark: SparkSession, vectors: NDArray[np.float32], path: Path) -> DataFrame:
    """(item_idx, vector) of (I + 1, D), whose row 0 is padding, through a file: no array goes
    through the driver's JVM.
    """
    schema = pa.schema([(c.ITEM_IDX, pa.int32()), (c.VECTOR, pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema) as file:
        for start in range(1, len(vectors), VECTOR_ROWS):
            part = vectors[start : start + VECTOR_ROWS]
            numbers = pa.array(range(start, start + len(part)), pa.int32())
            rows = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            file.write_table(pa.table([numbers, rows.cast(schema.types[1])], schema=schema))
    return spark.read.schema(f"{c.ITEM_IDX} int, {c.VECTOR} array<float>").parquet(str(path))

"""Lists of a score step -> `current_recommendations`, where consumers read them, in one commit.

A name has one whole generation at a time, never half of two: a reader sees the lists that were
current before the commit, or all of the new ones. What the lists may hold is asked once more here,
when they are switched: items that were withdrawn since the scoring, and exclusion lists.
`recsys-spark rollback` makes an earlier run's lists current again.
"""

from __future__ import annotations

import shutil
import time
from typing import Annotated, Any, Literal

from pydantic import Field
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import artifacts, log
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, TableError, first_line
from recsys_spark.datasets.forms.failures import quiet
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.scoring import serving
from recsys_spark.stages.bridge import artefact
from recsys_spark.stages.bridge import gate as gates

logger = log.get(__name__)
SERVING = "serving"  # folder in the run folder


class Job(context.Job):
    stage: Literal["publish"] = "publish"
    of: Annotated[str, StepOf("score")]
    name: str = Field("default", pattern=r"^[A-Za-z0-9_.-]+$")  # of the lists, for consumers
    k: int = Field(20, ge=1)  # items of a list; score more, so that some may be left out
    # A condition on an item's title and fields, such as "fields['stock'] > 0"; empty: none. An item
    # that the table does not have is not available.
    available: str = ""
    # A query that gives item_id, or query_id and item_id, of what no list, or that one, may hold
    exclude: str = ""
    # The name of the score step of the experiment in which this model was chosen, and an evaluation
    # that measured it and the model whose lists are current: they are switched only where the
    # paired difference allows it
    experiment: str | None = None
    gate: Annotated[str | None, StepOf("evaluate")] = None
    must: gates.Must = "not_be_worse"
    metric: str = "ndcg@10"
    # Also write a folder from which `recsys_spark.load` ranks one history, without Spark
    serve: bool = True


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """What is published are lists."""
    job: Any = step.job
    scored: Any = steps[job.of].job
    if job.gate is not None:
        measured = getattr(steps[job.gate].job, "of", ())
        if job.experiment is None or job.experiment not in measured:
            raise ConfigError(
                f"{where}.gate",
                found=f"{job.gate}, which does not measure {job.experiment or 'an experiment'}",
                expected=f"an evaluate step with it among {', '.join(measured)}",
                remedy="name the score step of the chosen model by `experiment`",
            )
    if scored.candidates is None and scored.k < job.k:
        raise ConfigError(
            f"{where}.k",
            found=f"{job.k}, of lists of {scored.k}",
            expected=f"at most {scored.k}",
            remedy=f"raise k of step {job.of}",
        )


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError where no list is left, TableError when another publisher was first,
    QualityError when the gate is shut; ConfigError for a condition or query that Spark cannot read.
    Nothing is switched then.
    """
    began, scored = time.monotonic(), ctx.inputs[job.of]
    if c.RECOMMENDATIONS not in scored.output_versions:
        raise ConfigError(
            f"step {ctx.step}, of",
            found=f"{job.of}, which made predictions",
            expected="a score step that made lists",
            remedy=f"set task: ranking in step {job.of}",
        )
    gated = _gated(ctx, job)
    rows = ctx.read(c.RECOMMENDATIONS, job.of).where(F.col(c.RUN_ID) == scored.run_id)
    kept = _allowed(ctx, job, rows).persist()
    try:
        counts = kept.agg(F.count_distinct(c.QUERY_ID), F.count("*")).collect()[0]
        queries, listed = (int(count) for count in counts)
        if not listed:
            raise DataError(
                f"lists of {job.of}",
                found="none that may be published",
                expected="at least one",
                remedy="loosen `available` and `exclude`",
            )
        generation, version = switch(ctx.lake, kept, job.name, ctx.now)
    finally:
        kept.unpersist()
    if job.serve:
        _serve(ctx, job)
    summary = {
        "name": job.name,
        "generation": generation,
        "of_run_id": scored.run_id,
        "model": scored.summary["model"],
        "queries": queries,
        "queries_without_list": int(scored.summary["queries"]) - queries,
        "rows": listed,
        "left_out": max(0, _within(scored, job.k) - listed),
        **gated,
        "seconds": round(time.monotonic() - began, 1),
    }
    logger.info(log.fields(stage="publish", **summary))
    return Outcome(
        tables=dict(scored.output_versions) | {c.CURRENT: version},
        summary=summary,
    )


def _gated(ctx: Context, job: Job) -> dict[str, Any]:
    if job.gate is None or job.experiment is None:
        return {}
    return gates.require(
        gates.of_current(ctx.lake, job.name),
        job.experiment,
        ctx.inputs[job.gate],
        job.metric,
        job.must,
        job.name,
    )


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    scored = ctx.inputs[job.of]
    return {"name": job.name, "rows": _within(scored, job.k)}


def switch(lake: Lake, lists: DataFrame, name: str, now: float) -> tuple[int, int]:
    """Make `lists` (of the columns of `recommendations`) the current ones of `name`, in one commit.
    Returns (the new generation, the table's version).

    Raises TableError when another publisher of the name has switched meanwhile.
    """
    lake.create(c.CURRENT)
    generation = current_generation(lake, name) + 1
    rows = lists.select(
        F.lit(name).alias(c.NAME),
        *(c.QUERY_ID, c.QUERY_KIND, c.ITEM_ID, c.SCORE, c.RANK, c.MODEL, c.RUN_ID),
        F.lit(generation).cast("bigint").alias(c.GENERATION),
        F.timestamp_micros(F.lit(round(now * 1e6))).alias(c.PUBLISHED_AT),
    )
    # Delta skips the second of two commits with one number: of two publishers one comes through
    before = lake.version(c.CURRENT)
    version = lake.replace(
        c.CURRENT, rows, {c.NAME: name}, txn=(f"generations of {name}", generation)
    )
    if version == before or not _is_ours(lake, version, name, now):
        raise TableError(
            f"lists {name!r} in {lake.where(c.CURRENT)}",
            found=f"generation {generation} of another publisher",
            expected="one publisher at a time",
            remedy="look at what it published; run this again to publish over it",
        )
    return generation, version


def current_generation(lake: Lake, name: str) -> int:
    """The number of the lists that are current; 0 before the first."""
    rows = lake.read(c.CURRENT).where(F.col(c.NAME) == name)
    return int(rows.agg(F.max(c.GENERATION)).collect()[0][0] or 0)


def _is_ours(lake: Lake, version: int, name: str, now: float) -> bool:
    row = lake.read(c.CURRENT, version).where(F.col(c.NAME) == name).select(c.PUBLISHED_AT).first()
    return row is not None and round(row[0].timestamp() * 1e6) == round(now * 1e6)


def _within(scored: Run, k: int) -> int:
    """Rows of the lists, cut after k."""
    facts = scored.summary
    return min(int(facts["rows"]), int(facts["queries"]) * k)


def _allowed(ctx: Context, job: Job, rows: DataFrame) -> DataFrame:
    """The rows that may be published, ranked anew from 1, at most k of a query."""
    try:
        with quiet():
            rows = _left(ctx, job, rows)
    except PySparkException as problem:
        raise ConfigError(
            f"step {ctx.step}, available and exclude",
            found=first_line(problem),
            expected="a condition on item_id, title and fields, and a query",
        ) from None
    place = F.row_number().over(Window.partitionBy(c.QUERY_KIND, c.QUERY_ID).orderBy(c.RANK))
    return rows.withColumn(c.RANK, place).where(F.col(c.RANK) <= job.k)


def _left(ctx: Context, job: Job, rows: DataFrame) -> DataFrame:
    """Without the rows that `available` and `exclude` name."""
    if job.available:
        items = ctx.lake.read(c.ITEMS).where(F.expr(job.available)).select(c.ITEM_ID)
        rows = rows.join(items, on=c.ITEM_ID, how="left_semi")
    if job.exclude:
        excluded = ctx.spark.sql(job.exclude)
        on = [name for name in (c.QUERY_ID, c.ITEM_ID) if name in excluded.columns]
        if c.ITEM_ID not in on:
            raise ConfigError(
                f"step {ctx.step}, exclude",
                found=f"columns {', '.join(excluded.columns)}",
                expected="item_id, or query_id and item_id",
            )
        rows = rows.join(excluded.select(*on), on=on, how="left_anti")
    return rows


def _serve(ctx: Context, job: Job) -> None:
    """Write the folder that `recsys_spark.load` reads."""
    scored = ctx.inputs[job.of]
    by_id = {run.run_id: run for run in ctx.lake.runs()}
    model, source = (by_id[scored.upstream[scored.config[field]]] for field in ("model", "source"))
    items = ctx.lake.read(c.ITEM_INDEX, source.output_versions[c.ITEM_INDEX])
    ids = items.orderBy(c.ITEM_IDX).toArrow()
    with artifacts.new_folder(ctx.run_dir / SERVING) as folder:
        shutil.copytree(
            artefact.folder(model),
            folder / serving.MODEL,
            ignore=shutil.ignore_patterns("queries", "optim.*", "state.json"),
        )
        popularity = ctx.input_dir(job.of) / "popularity.npy"
        serving.write(
            folder,
            ids=ids.column(c.ITEM_ID).to_pylist(),
            numbers=ids.column(c.ITEM_IDX).to_numpy(),
            model=str(scored.summary["model"]),
            run_id=scored.run_id,
            seed=ctx.seed,
            fallback=popularity if popularity.exists() else None,
        )

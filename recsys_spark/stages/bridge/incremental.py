"""What changed between two splits of one prepare step, and lists that need not be made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import TableError
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context

# What an event of a query is, whichever run wrote it
_EVENT = tuple(name for name in SCHEMAS[c.SPLITS].fieldNames() if name not in (c.SPLIT, c.RUN_ID))


VERSION = "stage_version"  # in the summary of a run whose lists may stay


class Scores(Protocol):
    """What is asked of a score step's job."""

    @property
    def model(self) -> str: ...
    @property
    def source(self) -> str: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Same:
    """The lists that stay: rows of `recommendations`, as of this run. changed (query_idx): the
    queries that have none here.
    """

    lists: DataFrame
    changed: DataFrame

    def counts(self) -> tuple[int, int]:
        """(lists, rows)."""
        counts = self.lists.agg(F.count_distinct(c.QUERY_ID), F.count(F.lit(1))).collect()[0]
        return int(counts[0]), int(counts[1])


def same(ctx: Context, job: Scores, version: int) -> Same | None:
    """The lists of the last run of the step under way, of queries whose events are what they were
    then. None where this run of the model has made no list by these settings and this version of
    the stage, or lists or events are gone.
    """
    lists, source = _lists_before(ctx, job, version), job.source
    split = _split_of(ctx, lists, source) if lists else None
    queries = _changed(ctx, source, split) if split else None
    if lists is None or queries is None:
        return None
    try:
        table = ctx.lake.read(c.RECOMMENDATIONS, lists.output_versions[c.RECOMMENDATIONS])
    except TableError:
        return None
    known = lineage.split_rows(ctx, source).select(c.QUERY_IDX, c.QUERY_ID).distinct()
    stay = known.join(queries, on=c.QUERY_IDX, how="left_anti").select(c.QUERY_ID)
    rows = table.where(F.col(c.RUN_ID) == lists.run_id).join(stay, on=c.QUERY_ID, how="left_semi")
    return Same(rows.withColumn(c.RUN_ID, F.lit(ctx.run_id)), queries)


def since_fitted(ctx: Context, model: Run, source: str) -> DataFrame | None:
    """(query_idx): the queries whose events are not those of the split that the model was fitted
    on. None where it is that of `source`, or its events are gone.
    """
    split = _split_of(ctx, model, source)
    if split is None or split.run_id == ctx.inputs[source].run_id:
        return None
    return _changed(ctx, source, split)


def _lists_before(ctx: Context, job: Scores, version: int) -> Run | None:
    wanted = (ctx.inputs[job.model].run_id, job.model_dump(mode="json"), ctx.seed, version)
    for run in reversed(ctx.lake.runs()):
        if (run.pipeline, run.step) == (ctx.pipeline, ctx.step) and run.run_id != ctx.run_id:
            by = (run.upstream.get(job.model), run.config, run.seed)
            return run if (*by, run.summary.get(VERSION)) == wanted else None
    return None


def _split_of(ctx: Context, run: Run, source: str) -> Run | None:
    """The run of the prepare step `source` that a run builds on, at any distance."""
    above = {*run.upstream.values(), *lineage.ancestors(ctx, run)}
    splits = [other for other in ctx.lake.runs() if other.run_id in above and other.step == source]
    return splits[-1] if splits else None


def _changed(ctx: Context, source: str, before: Run) -> DataFrame | None:
    """(query_idx), 4 bytes each on the driver: the queries whose events are not those of the split
    of run `before`. None where the rows of that one are no longer there.
    """
    try:
        table = ctx.lake.read(c.SPLITS, before.output_versions[c.SPLITS])
    except TableError:
        return None
    of_run = (F.col(c.SPLIT) == before.summary["split"]) & (F.col(c.RUN_ID) == before.run_id)
    now, then = _digests(lineage.split_rows(ctx, source)), _digests(table.where(of_run))
    keys = [c.QUERY_IDX, "events", "digest"]
    queries = now.join(then, on=keys, how="left_anti").select(c.QUERY_IDX)
    # Joins send them to every task anyway, and worked out once they are not read twice
    return F.broadcast(ctx.spark.createDataFrame(queries.toArrow(), f"{c.QUERY_IDX} int"))


def _digests(events: DataFrame) -> DataFrame:
    """(query_idx, events, digest): equal for the same events in any order."""
    return events.groupBy(c.QUERY_IDX).agg(
        F.count(F.lit(1)).alias("events"),
        F.sum(F.xxhash64(*_EVENT).cast("decimal(38, 0)")).alias("digest"),
    )

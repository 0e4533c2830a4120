"""Candidates for every user of a scored part -> the table `candidates`: drawn, as a file has them, or all new items (etl/candidates.py).

Made once and stored, so that every model ranks the same sets. What is measured on drawn ones is a sampled metric, and says little about a
full ranking: docs/protocols.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.artifacts import file_digest
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import candidates
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref

logger = log.get(__name__)
DRAWS = 99


class Job(context.Job):
    stage: Literal["candidates"] = "candidates"
    source: Ref  # a prepare step
    part: Literal["valid", "test"] = "test"
    draws: int = Field(DRAWS, ge=1, le=10_000)  # negatives of each query
    among: Literal["sampled", "new_items"] = "sampled"  # new_items: all items of the part that no earlier part knows
    published: str | None = None  # a file that has them, of NCF's format; with .gz added it is found too

    @model_validator(mode="after")
    def _one_source(self) -> Job:
        if self.published is not None and self.draws != DRAWS:
            raise ValueError("draws or published, not both: a published file says how many there are")
        if self.among == c.NEW_ITEMS and (self.published is not None or self.draws != DRAWS):
            raise ValueError("among: new_items takes all of them: neither draws nor published")
        return self


def source_fingerprint(job: Job) -> str:
    """Of the published file's bytes."""
    return file_digest(_file(job.published)) if job.published is not None else ""


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    prepared = ctx.inputs[job.source].summary
    queries = min(int(prepared["users"]), int(prepared[job.part]))
    return {"part": job.part, "queries": queries, "rows": queries * job.draws + int(prepared[job.part])}


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError for an empty part, or a file that does not fit the part."""
    split = str(ctx.inputs[job.source].summary["split"])
    events = ctx.read(c.SPLITS, job.source).where(F.col(c.SPLIT) == split)
    wanted = candidates.targets(events, job.part).persist()
    try:
        num_targets, queries = wanted.agg(F.count(F.lit(1)), F.countDistinct(c.QUERY_ID)).collect()[0]
        if not queries:
            raise DataError(f"split {split!r}, part {job.part}", found="no events", expected="at least one",
                            remedy=f"choose another part, or change {job.source}")
        odd: dict[str, int] = {}
        if job.among == c.NEW_ITEMS:
            negatives = candidates.new_items(events, job.part)
        elif job.published is None:
            negatives = candidates.sampled(events, job.part, job.draws, ctx.seed)
        else:
            path = str(_file(job.published))
            lines = candidates.lines_of(events, path)
            candidates.require_matching(lines, wanted, path, job.part)
            negatives, odd = candidates.published(lines, events, job.part)
        rows = wanted.unionByName(negatives).withColumns(
            {c.SPLIT: F.lit(split), c.RUN_ID: F.lit(ctx.run_id), c.PART: F.lit(job.part)})
        version = ctx.lake.replace(c.CANDIDATES, rows, {c.RUN_ID: ctx.run_id})
    finally:
        wanted.unpersist()
    written = ctx.lake.read(c.CANDIDATES, version).where(F.col(c.RUN_ID) == ctx.run_id)
    sizes = written.groupBy(c.QUERY_ID).count().agg(F.sum("count"), F.min("count"), F.max("count")).collect()[0]
    summary = {"split": split, "part": job.part, "seed": ctx.seed, "source": job.among if job.published is None else c.PUBLISHED,
               "queries": int(queries), "targets": int(num_targets), "rows": int(sizes[0]), "fewest": int(sizes[1]), "most": int(sizes[2])}
    summary |= odd
    logger.info(log.fields(stage="candidates", **summary))
    return Outcome(dict(ctx.inputs[job.source].output_versions) | {c.CANDIDATES: version}, summary=summary)


def require(ctx: Context, step: str, *, source: str, part: str, remedy: str = "set the same part in both steps") -> None:
    """Raises ConfigError unless `step`, named by the step under way, made candidates for this part of the split of `source`."""
    thing, offered = f"step {ctx.step}, candidates", ctx.inputs[step]
    if offered.stage != "candidates":
        raise ConfigError(thing, found=f"{step}, a step of stage {offered.stage}", expected="one of stage candidates")
    if ctx.inputs[source].run_id not in offered.upstream.values():
        raise ConfigError(thing, found=f"{step}, which was made for {', '.join(offered.upstream)}", expected=f"candidates for {source}",
                          remedy=f"add a candidates step with source: {source}")
    if offered.config["part"] != part:
        raise ConfigError(thing, found=f"{step}, which is for part {offered.config['part']}", expected=f"candidates for part {part}",
                          remedy=remedy)


def _file(published: str) -> Path:
    """Raises DataError when neither it nor its .gz is there."""
    path = Path(published).expanduser().absolute()
    for found in (path, path.with_name(path.name + ".gz")):
        if found.is_file():
            return found
    raise DataError(f"candidates file {published}", found="no such file", expected="the file that was published with the split, or its .gz",
                    remedy="correct `published`, or leave it out to draw candidates")

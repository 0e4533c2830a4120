"""Candidates for every query of a scored part -> the table `candidates`: drawn at random, read from
a published file, all new items, the lists that were shown (etl/candidates.py), or the lists of
several models united (etl/union.py).

The sets are stored once, so that every model ranks the same ones. A metric on drawn candidates is a
sampled metric, which says little about a full ranking: docs/protocols.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.artifacts import file_digest
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import remembered
from recsys_spark.etl import candidates, union
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.metrics.tasks import RANKING
from recsys_spark.pipeline import context, lineage
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.stages.bridge import configured

logger = log.get(__name__)
DRAWS = 99


class Job(context.Job):
    stage: Literal["candidates"] = "candidates"
    source: Annotated[str, StepOf("prepare")]
    # now: the lists that nothing is known to have come of, which are to be answered
    part: Literal["valid", "test", "now"] = "test"
    draws: int = Field(DRAWS, ge=1, le=10_000)  # negatives of each query
    # new_items: all items of the part that are in no earlier part. shown: the last list that was
    # shown to the query, of table `impressions`, in its order. union: the items of the lists `of`
    among: Literal["sampled", "new_items", "shown", "union"] = "sampled"
    # union: steps that scored this part, each of which gives its whole lists. A second model knows
    # them by their models' names: two of one model in the same order wherever they are united
    of: Annotated[tuple[str, ...], StepOf("score")] = Field((), exclude_if=lambda of: not of)
    published: str | None = (
        None  # a file of candidates in NCF's format; the name with .gz added is tried too
    )

    @model_validator(mode="after")
    def _one_source(self) -> Job:
        if self.published is not None and self.draws != DRAWS:
            raise ValueError(
                "draws or published, not both: a published file says how many there are"
            )
        if self.among != c.SAMPLED and (self.published is not None or self.draws != DRAWS):
            raise ValueError(f"among: {self.among} takes all of them: neither draws nor published")
        if self.part == c.NOW and self.among not in c.ORDERED:
            raise ValueError("part: now is of lists: set among: shown, or among: union")
        if (self.among == c.UNION) != bool(self.of):
            raise ValueError("among: union and `of`, the score steps to be united, go together")
        if len(set(self.of)) < len(self.of):
            raise ValueError(f"each score step once in `of`, not {', '.join(self.of)}")
        return self


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """Lists to be united are rankings of the whole catalogue, for this part of this split."""
    job: Any = step.job
    for name in job.of:
        score: Any = steps[name].job
        for field in ("source", "part"):
            if (value := getattr(score, field)) != (wanted := getattr(job, field)):
                raise ConfigError(
                    f"{where}.of",
                    found=f"{name}, whose {field} is {value}",
                    expected=f"lists whose {field} is {wanted}",
                )
        if configured.measured_as(score, steps) != RANKING.name:
            raise ConfigError(
                f"{where}.of",
                found=f"{name}, which does not rank the whole catalogue",
                expected="lists of the catalogue",
                remedy="score that model with task: ranking and without candidates",
            )


def source_fingerprint(job: Job, runs: Path) -> str:
    """Fingerprint of the published file's bytes, cached in the folder `runs` while the file is
    unchanged.
    """
    if job.published is None:
        return ""
    return remembered.facts([_file(job.published)], "sha256", file_digest, runs)[0]


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    prepared = ctx.inputs[job.source].summary
    if job.part == c.NOW:
        return {"part": job.part, "queries": int(prepared["users"])}
    queries = min(int(prepared["users"]), int(prepared[job.part]))
    return {
        "part": job.part,
        "queries": queries,
        "rows": queries * job.draws + int(prepared[job.part]),
    }


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError for an empty part, or a file that does not fit the part."""
    split = str(ctx.inputs[job.source].summary["split"])
    events = lineage.split_rows(ctx, job.source)
    target_events = candidates.targets(events, job.part).persist()
    try:
        num_targets, queries = target_events.agg(
            F.count(F.lit(1)), F.countDistinct(c.QUERY_ID)
        ).collect()[0]
        if not queries and job.part != c.NOW:
            raise DataError(
                f"split {split!r}, part {job.part}",
                found="no events",
                expected="at least one",
                remedy=f"choose another part, or change {job.source}",
            )
        odd: dict[str, int] = {}
        if job.among == c.UNION:
            names, offered = _united(ctx, job, events)
        elif job.part == c.NOW:
            offered, odd = candidates.unanswered(_impressions(ctx, job), events)
        elif job.among == c.SHOWN:
            offered, odd = candidates.shown(_impressions(ctx, job), events, job.part)
        elif job.among == c.NEW_ITEMS:
            offered = target_events.unionByName(candidates.new_items(events, job.part))
        elif job.published is None:
            negatives = candidates.sampled(events, job.part, job.draws, ctx.seed)
            offered = target_events.unionByName(negatives)
        else:
            path = str(_file(job.published))
            lines = candidates.lines_of(events, path)
            candidates.require_matching(lines, target_events, path, job.part)
            negatives, odd = candidates.published(lines, events, job.part)
            offered = target_events.unionByName(negatives)
        version = ctx.lake.replace(c.CANDIDATES, _rows(ctx, job, offered), {c.RUN_ID: ctx.run_id})
    finally:
        target_events.unpersist()
    written = ctx.lake.read(c.CANDIDATES, version).where(F.col(c.RUN_ID) == ctx.run_id)
    if written.isEmpty():
        raise DataError(
            f"candidates of split {split!r}, part {job.part}",
            found=", ".join(f"{name} {count}" for name, count in odd.items()),
            expected="a list for at least one query",
            remedy="compare the ids and times of impressions with those of events",
        )
    sizes = (
        written.groupBy(c.QUERY_ID)
        .agg(
            F.count(F.lit(1)).alias("count"),
            F.count_if(F.col(c.SOURCE) == c.TARGET).alias("targets"),
        )
        .agg(F.sum("count"), F.min("count"), F.max("count"), F.count(F.lit(1)), F.sum("targets"))
        .collect()[0]
    )
    summary = {
        "split": split,
        "part": job.part,
        "seed": ctx.seed,
        "source": job.among if job.published is None else c.PUBLISHED,
        "queries": int(sizes[3]),
        "targets": int(num_targets),
        "rows": int(sizes[0]),
        "fewest": int(sizes[1]),
        "most": int(sizes[2]),
    }
    summary |= odd
    if job.among == c.UNION:
        summary |= {
            "targets_not_among_candidates": int(num_targets) - int(sizes[4]),
            "lists": names,
        }
    logger.info(log.fields(stage="candidates", **summary))
    if any(odd.values()):
        counts = {name: count for name, count in odd.items() if count}
        logger.warning(log.fields(event="candidates", **counts))
    return Outcome(
        dict(ctx.inputs[job.source].output_versions) | {c.CANDIDATES: version}, summary=summary
    )


def _rows(ctx: Context, job: Job, offered: DataFrame) -> DataFrame:
    """Rows of the table; only lists that were shown have times and fields."""
    rows = offered.withColumns(
        {
            c.SPLIT: F.lit(str(ctx.inputs[job.source].summary["split"])),
            c.RUN_ID: F.lit(ctx.run_id),
            c.PART: F.lit(job.part),
            c.QUERY_KIND: F.lit(lineage.query_kind(ctx, job.source)),
        }
    )
    for field in SCHEMAS[c.CANDIDATES]:
        if field.name not in rows.columns:
            rows = rows.withColumn(field.name, F.lit(None).cast(field.dataType))
    return rows


def _united(ctx: Context, job: Job, events: DataFrame) -> tuple[list[str], DataFrame]:
    """(names of the lists, candidates). Raises ConfigError for lists of another split or part."""
    for step in job.of:
        lineage.require_scored_for(ctx, step, source=job.source, part=job.part)
    names = union.named([str(ctx.inputs[step].summary["model"]) for step in job.of])
    lists = {
        name: ctx.read(c.RECOMMENDATIONS, step).where(F.col(c.RUN_ID) == ctx.inputs[step].run_id)
        for name, step in zip(names, job.of, strict=True)
    }
    return names, union.of_lists(lists, events, job.part)


def _impressions(ctx: Context, job: Job) -> DataFrame:
    """Those of the split's kind of query. Raises ConfigError where the data have none."""
    kind, found = lineage.query_kind(ctx, job.source), "no table impressions"
    if c.IMPRESSIONS in ctx.inputs[job.source].output_versions:
        impressions = ctx.read(c.IMPRESSIONS, job.source).where(F.col(c.QUERY_KIND) == kind)
        if not impressions.isEmpty():
            return impressions
        found = f"no impression of a {kind}"
    raise ConfigError(
        f"step {ctx.step}, among",
        found=f"shown, and {found}",
        expected=f"impressions of each {kind}",
        remedy="name them under `impressions` of `source` in the ingest step: user_id for a user, "
        "user_id and session_id for a session, session_id for a playlist",
    )


def _file(published: str) -> Path:
    """Path of the published file or of its .gz. Raises DataError when neither exists."""
    path = Path(published).expanduser().absolute()
    for file in (path, path.with_name(path.name + ".gz")):
        if file.is_file():
            return file
    raise DataError(
        f"candidates file {published}",
        found="no such file",
        expected="the file that was published with the split, or its .gz",
        remedy="correct `published`, or leave it out to draw candidates",
    )

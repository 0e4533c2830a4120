"""Which runs fit together: what was trained on, scored for, or drawn for the same split."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline.context import TRAINED, Context


def require_trained_on(ctx: Context, step: str, *, source: str, earlier: bool = False) -> None:
    """Raises ConfigError unless `step` trained a model on the split of step `source`; or, with
    `earlier`, on one that this step made before, of other events.
    """
    model, split = ctx.inputs[step], ctx.inputs[source]
    if model.stage not in TRAINED:
        raise ConfigError(
            f"step {ctx.step}, model",
            found=f"{step}, a step of stage {model.stage}",
            expected=f"one of stage {', '.join(TRAINED)}",
        )
    above = {*model.upstream.values(), *ancestors(ctx, model)}
    if earlier and any(
        run.run_id in above
        and (run.pipeline, run.step, run.config) == (split.pipeline, split.step, split.config)
        for run in ctx.lake.runs()
    ):
        return
    if split.run_id not in above:
        raise ConfigError(
            f"step {ctx.step}, source",
            found=f"{source}, on which {step} was not trained",
            expected=f"the prepare step that {step} builds on",
            remedy="train the model on this split first",
        )


def require_candidates(
    ctx: Context,
    step: str,
    *,
    source: str,
    part: str,
    remedy: str = "set the same part in both steps",
) -> None:
    """Raises ConfigError unless `step`, named by the step under way, made candidates for this part
    of the split of `source`.
    """
    thing, offered = f"step {ctx.step}, candidates", ctx.inputs[step]
    if offered.stage != "candidates":
        raise ConfigError(
            thing,
            found=f"{step}, a step of stage {offered.stage}",
            expected="one of stage candidates",
        )
    if ctx.inputs[source].run_id not in offered.upstream.values():
        raise ConfigError(
            thing,
            found=f"{step}, which was made for {', '.join(offered.upstream)}",
            expected=f"candidates for {source}",
            remedy=f"add a candidates step with source: {source}",
        )
    if offered.config["part"] != part:
        raise ConfigError(
            thing,
            found=f"{step}, which is for part {offered.config['part']}",
            expected=f"candidates for part {part}",
            remedy=remedy,
        )


def require_scored_for(ctx: Context, step: str, *, source: str, part: str) -> None:
    """Raises ConfigError unless `step` scored this part of the split `source`, at its version."""
    score, split = ctx.inputs[step], ctx.inputs[source]
    if score.stage != "score" or not {c.RECOMMENDATIONS, c.PREDICTIONS} & set(
        score.output_versions
    ):
        raise ConfigError(
            f"step {ctx.step}, of",
            found=f"{step}, which is a {score.stage} step",
            expected="steps of stage score",
        )
    if score.upstream and split.run_id not in score.upstream.values():
        raise ConfigError(
            f"step {ctx.step}, of",
            found=f"{step}, which was scored for {', '.join(score.upstream)}",
            expected=f"runs scored for {source}",
            remedy="evaluate each split in a step of its own",
        )
    read, now = (run.output_versions.get(c.SPLITS) for run in (score, split))
    if read is not None and read != now:
        raise ConfigError(
            f"step {ctx.step}, of",
            found=f"{step}, which was scored for version {read} of table {c.SPLITS}",
            expected=f"version {now}, which {source} left",
            remedy=f"run {step} again with --force",
        )
    if score.config.get("part", part) != part:
        raise ConfigError(
            f"step {ctx.step}, part",
            found=part,
            expected=f"{score.config['part']}, which {step} scored",
            remedy=f"set the same part in {ctx.step} and {step}",
        )


def split_rows(ctx: Context, step: str) -> DataFrame:
    """The rows of `splits` that the prepare step `step` wrote, at the version of its commit.

    By name, which is a partition, and by run: other pipelines of the lake may write a split of the
    same name.
    """
    run = ctx.inputs[step]
    return ctx.read(c.SPLITS, step).where(
        (F.col(c.SPLIT) == run.summary["split"]) & (F.col(c.RUN_ID) == run.run_id)
    )


def query_kind(ctx: Context, source: str) -> str:
    """What the lists of a split are for: `user`, or what its rule says, such as `session`."""
    return str(ctx.inputs[source].summary.get("query_kind", "user"))


def ancestors(ctx: Context, run: Run) -> set[str]:
    """run_ids of all runs that this one builds on."""
    known = {other.run_id: other for other in ctx.lake.runs()}
    above, queue = set(), list(run.upstream.values())
    while queue:
        run_id = queue.pop()
        if run_id not in above:
            above.add(run_id)
            queue += known[run_id].upstream.values() if run_id in known else []
    return above

"""Fits a baseline, optionally with a search over its settings: training events -> an index
artefact.

The stages train_baseline and train_als both run this module.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import registry
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core import config as configuration
from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import queries, shown_features, union
from recsys_spark.pipeline import context, lineage
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.stages.bridge import artefact, configured, entities
from recsys_spark.stages.tuning import search
from recsys_spark.stages.tuning.judge import Judge
from recsys_spark.stages.tuning.search import Search

logger = log.get(__name__)


class Job(context.Job):
    source: Annotated[str, StepOf("prepare")]
    model: str
    # Settings of the baseline's Config; defaults are filled in
    config: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    search: Search | None = None  # search over the settings in its space; None: `config` unchanged
    # The search ranks these items, of part valid; None: all items. Of a model that ranks what
    # others list: their united lists, on which it is fitted
    candidates: Annotated[str | None, StepOf("candidates")] = None
    fit: Literal["train", "train+valid"] = (
        "train+valid"  # events of the final fit, after the choice on validation
    )
    # A step with the same model: the settings that it chose are fitted again, on this source
    again: Annotated[str | None, StepOf("train_baseline", "train_als")] = None

    @field_validator("config", mode="after")
    @classmethod
    def _of_the_model(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "model" not in info.data:
            return value  # a missing or wrong `model` is reported separately
        name = info.data["model"]
        return configuration.validate(
            registry.find(name).Config, value, source=f"baseline {name}", key="config"
        ).model_dump(mode="json")

    @model_validator(mode="after")
    def _space_fits(self) -> Job:
        for setting in search.corners(self.search) if self.search else ():
            configuration.validate(
                registry.find(self.model).Config,
                self.config | setting,
                source=f"baseline {self.model}",
                key="search.space",
            )
        if registry.reads_union(self.model):
            self._fits_a_union()
        elif self.candidates and self.search is None:
            raise ValueError(
                "candidates play a part in a search alone: add `search`, or leave them out"
            )
        return self

    def _fits_a_union(self) -> None:
        """Its lists are of the validation part, so nothing is left to judge trials by."""
        if self.candidates is None:
            raise ValueError(f"{self.model} is fitted on united lists: name their step, candidates")
        if self.search is not None:
            raise ValueError(
                f"{self.model} is fitted on the validation part: leave out search (`judged` of "
                "config is the share of lists by which it chooses)"
            )
        if self.fit == "train":
            raise ValueError(f"{self.model} is fitted on the validation part: leave out fit")


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """A search ranks among candidates of the validation part of its own split; what is fitted again
    has another step's settings, all of them.
    """
    job: Any = step.job
    configured.require_again(step, steps, where)
    if job.candidates is not None:
        configured.require_candidates(step, steps, where, source=job.source, part=c.VALID)
        lists: Any = steps[job.candidates].job
        if registry.reads_union(job.model) and lists.among != c.UNION:
            raise ConfigError(
                f"{where}.candidates",
                found=f"{job.candidates}, among: {lists.among}",
                expected=f"united lists, for {job.model}",
                remedy="set among: union, and `of`: the score steps of the validation part",
            )


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when there is nothing to fit on, or no validation event for a search."""
    began, baseline = time.monotonic(), registry.find(job.model)
    config = baseline.Config(**job.config)
    fit_facts: dict[str, Any] = {}
    if job.again is not None:
        chosen = artefact.settings(ctx.inputs[job.again])
        config = baseline.Config(**chosen)
    if job.search is not None:
        config, fit_facts = _chosen(ctx, job, job.search, baseline)
    with _kept(_events(ctx, job, job.fit)) as events:
        fit_facts |= baseline.write(
            training(ctx, job, events, job.fit), config, ctx.run_dir / artefact.INDEX
        )
    facts = {
        "model": job.model,
        "task": registry.task(job.model, config),
        "fit": job.fit,
        **config.model_dump(mode="json"),
        **fit_facts,
    }
    # Play counts, say, of which a user expects more than that there was an event
    if ctx.inputs[job.source].summary.get("values_differ"):
        facts["value_of_an_event"] = (
            "used" if registry.uses_values(job.model, config) else "ignored"
        )
    facts["seconds"] = round(time.monotonic() - began, 1)
    logger.info(log.fields(stage=job.stage, **log.plain(facts), index=ctx.run_dir / artefact.INDEX))
    return Outcome(tables=dict(ctx.inputs[job.source].output_versions), summary=facts)


def _chosen(
    ctx: Context, job: Job, options: Search, baseline: ModuleType
) -> tuple[Any, dict[str, Any]]:
    """The best configuration on validation; every trial is fitted on the training part alone."""
    base = baseline.Config(**job.config)
    judge = Judge(
        ctx,
        job.source,
        task=registry.task(job.model, base),
        metric=options.metric,
        users=options.users,
        candidates=job.candidates,
        seen=options.seen,
    )
    folder = ctx.run_dir / "trial"

    with _kept(_events(ctx, job, "train")) as events:
        given = training(ctx, job, events, "train")

        def trial(values: dict[str, Any]) -> float:
            baseline.write(given, baseline.Config(**job.config | values), folder)
            return judge(folder)

        best, facts = search.choose(ctx, job, options, judge.metric, trial)
    shutil.rmtree(folder, ignore_errors=True)
    return baseline.Config(**job.config | best), facts


@contextmanager
def _kept(events: DataFrame) -> Iterator[DataFrame]:
    """Persists the events while in use, because fitting reads them many times. Raises DataError
    when there are none.
    """
    events.persist()
    try:
        if events.isEmpty():
            raise DataError(
                "events to fit on",
                found="none",
                expected="at least one",
                remedy="change the prepare step, or `fit`",
            )
        yield events
    finally:
        events.unpersist()


def training(ctx: Context, job: Job, events: DataFrame, fit: str) -> Training:
    """`events`, those of `fit`, with the tables of their users and items, all at the versions
    recorded by the source's run.
    """
    prepared = ctx.inputs[job.source]

    users, items = entities.users(ctx, job.source), None
    if users is not None:
        numbers = entities.user_index(ctx, job.source)
        users = users.join(numbers, on=c.USER_ID, how="inner").select(
            F.col(c.USER_IDX).alias(c.QUERY_IDX), "fields"
        )
    if c.ITEMS in prepared.output_versions:
        items = ctx.read(c.ITEMS, job.source).join(
            ctx.read(c.ITEM_INDEX, job.source), on=c.ITEM_ID, how="inner"
        )
        items = items.select(c.ITEM_IDX, "title", "fields")

    return Training(
        events,
        int(prepared.summary["num_users"]),
        int(prepared.summary["num_items"]),
        ctx.seed,
        users=users,
        items=items,
        lists=_lists(ctx, job, fit),
    )


def _lists(ctx: Context, job: Job, fit: str) -> DataFrame | None:
    """What a model that ranks given lists is fitted on; None for all others."""
    if registry.reads_union(job.model) and job.candidates is not None:
        united = ctx.inputs[job.candidates]
        rows = ctx.read(c.CANDIDATES, job.candidates).where(F.col(c.RUN_ID) == united.run_id)
        return union.to_fit(rows, union.features(united.summary["lists"]))
    names: tuple[str, ...] = getattr(registry.find(job.model), "READS_LISTS", ())
    return _shown(ctx, job, fit, names) if names else None


def _shown(ctx: Context, job: Job, fit: str, names: tuple[str, ...]) -> DataFrame:
    """With these features. Raises ConfigError where the data have no lists that were shown."""
    if c.IMPRESSIONS not in ctx.inputs[job.source].output_versions:
        raise ConfigError(
            f"step {ctx.step}, model",
            found=f"{job.model}, and no table {c.IMPRESSIONS}",
            expected="lists that were shown, to fit it on",
            remedy="name them under `impressions` of `source` in the ingest step",
        )
    kind = F.col(c.QUERY_KIND) == lineage.query_kind(ctx, job.source)
    events = lineage.split_rows(ctx, job.source).where(F.col(c.PART).isin(*c.FITTED_ON[fit]))
    impressions = ctx.read(c.IMPRESSIONS, job.source).where(kind)
    return shown_features.answered(impressions, events, names)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    prepared = ctx.inputs[job.source].summary
    rows = int(prepared[c.TRAIN]) + (int(prepared[c.VALID]) if job.fit == "train+valid" else 0)
    fits = 1 + (job.search.trials if job.search else 0)
    return {
        "model": job.model,
        "events": rows,
        "fits": fits,
        "driver_bytes": 4 * (int(prepared["num_items"]) + 1) * 4,
    }


def _events(ctx: Context, job: Job, fit: str) -> DataFrame:
    events = lineage.split_rows(ctx, job.source).where(F.col(c.PART).isin(*c.FITTED_ON[fit]))
    further = registry.reads(job.model, registry.find(job.model).Config(**job.config))
    if c.PLACE in further:
        of_query = Window.partitionBy(c.QUERY_IDX).orderBy(queries.oldest_first())
        events = events.withColumn(c.PLACE, F.row_number().over(of_query))
    return events.select(c.QUERY_IDX, c.ITEM_IDX, c.TS, c.VALUE, *further)

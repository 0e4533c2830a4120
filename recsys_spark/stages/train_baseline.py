"""A baseline of `baselines/`, found by its file name: training events -> an index artefact in the run folder."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

import recsys_spark.baselines
from recsys_spark.baselines.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core import config as configuration
from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.stages import context, search
from recsys_spark.stages.context import Context, OptionalRef, Outcome, Ref
from recsys_spark.stages.judge import Judge
from recsys_spark.stages.search import Search

logger = log.get(__name__)
INDEX = "index"  # folder in the run folder


def names() -> list[str]:
    """Every file of `baselines/` that writes an index."""
    files = Path(next(iter(recsys_spark.baselines.__path__))).glob("*.py")
    return sorted(file.stem for file in files if "\ndef write(training" in file.read_text(encoding="utf-8"))


def find(name: str) -> ModuleType:
    """Raises ConfigError for an unknown name, with the nearest."""
    if name not in names():
        raise ConfigError("baseline", found=repr(name), expected=f"one of {', '.join(names())}{nearest(name, names())}")
    return importlib.import_module(f"recsys_spark.baselines.{name}")


class Job(context.Job):
    stage: Literal["train_baseline"] = "train_baseline"
    source: Ref  # a prepare step
    model: str
    config: dict[str, Any] = Field(default_factory=dict, validate_default=True)  # of the baseline's Config; defaults are written out
    search: Search | None = None  # of the settings in its space; none: `config` as it is
    candidates: OptionalRef = None  # a candidates step of part valid: the search ranks among those; none: among all items
    fit: Literal["train", "train+valid"] = "train+valid"  # events of the final fit, after the choice on validation

    @field_validator("config", mode="after")
    @classmethod
    def _of_the_model(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "model" not in info.data:
            return value  # the missing or wrong `model` is reported by itself
        name = info.data["model"]
        return configuration.validate(find(name).Config, value, source=f"baseline {name}", key="config").model_dump(mode="json")

    @model_validator(mode="after")
    def _space_fits(self) -> Job:
        for setting in search.corners(self.search) if self.search else ():
            configuration.validate(find(self.model).Config, self.config | setting, source=f"baseline {self.model}", key="search.space")
        if self.candidates and self.search is None:
            raise ValueError("candidates play a part in a search alone: add `search`, or leave them out")
        return self


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when there is nothing to fit on, or no validation event for a search."""
    began, baseline = time.monotonic(), find(job.model)
    config = baseline.Config(**job.config)
    found: dict[str, Any] = {}
    if job.search is not None:
        config, found = _chosen(ctx, job, job.search, baseline)
    with _kept(_events(ctx, job, job.fit)) as events:
        found |= baseline.write(training(ctx, job, events), config, ctx.run_dir / INDEX)
    facts = {"model": job.model, "task": task(baseline, config), "fit": job.fit, **config.model_dump(mode="json"), **found}
    facts["seconds"] = round(time.monotonic() - began, 1)
    logger.info(log.fields(stage=job.stage, **log.plain(facts), index=ctx.run_dir / INDEX))
    return Outcome(tables=dict(ctx.inputs[job.source].output_versions), summary=facts)


def _chosen(ctx: Context, job: Job, wanted: Search, baseline: ModuleType) -> tuple[Any, dict[str, Any]]:
    """The best configuration on validation; every trial is fitted on the training part alone."""
    base = baseline.Config(**job.config)
    judge = Judge(ctx, job.source, task=task(baseline, base), metric=wanted.metric, users=wanted.users,
                  candidates=job.candidates)
    folder = ctx.run_dir / "trial"

    with _kept(_events(ctx, job, "train")) as events:
        given = training(ctx, job, events)

        def trial(values: dict[str, Any]) -> float:
            baseline.write(given, baseline.Config(**job.config | values), folder)
            return judge(folder)

        best, facts = search.choose(ctx, job, wanted, judge.metric, trial)
    shutil.rmtree(folder, ignore_errors=True)
    return baseline.Config(**job.config | best), facts


@contextmanager
def _kept(events: DataFrame) -> Iterator[DataFrame]:
    """Held while it is used, for fitting reads it many times. Raises DataError when it is empty."""
    events.persist()
    try:
        if events.isEmpty():
            raise DataError("events to fit on", found="none", expected="at least one", remedy="change the prepare step, or `fit`")
        yield events
    finally:
        events.unpersist()


def training(ctx: Context, job: Job, events: DataFrame) -> Training:
    """`events` with what the tables hold of their users and items, all of it at the versions that the source's run names."""
    prepared = ctx.inputs[job.source]

    def numbered(table: str, index: str, columns: tuple[str, ...]) -> DataFrame | None:
        if table not in prepared.output_versions:
            return None
        rows, ids = ctx.read(table, job.source), ctx.read(index, job.source)
        return rows.join(ids, on=ids.columns[0], how="inner").select(ids.columns[1], *columns)

    return Training(events, int(prepared.summary["num_users"]), int(prepared.summary["num_items"]), ctx.seed,
                    users=numbered(c.USERS, c.USER_INDEX, ("fields",)), items=numbered(c.ITEMS, c.ITEM_INDEX, ("title", "fields")))


def task(baseline: ModuleType, config: Any) -> str:
    """`ranking` or `rating`."""
    return str(baseline.task(config) if hasattr(baseline, "task") else baseline.TASK)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    prepared = ctx.inputs[job.source].summary
    rows = int(prepared[c.TRAIN]) + (int(prepared[c.VALID]) if job.fit == "train+valid" else 0)
    fits = 1 + (job.search.trials if job.search else 0)
    return {"model": job.model, "events": rows, "fits": fits, "driver_bytes": 4 * (int(prepared["num_items"]) + 1) * 4}


def _events(ctx: Context, job: Job, fit: str) -> DataFrame:
    split, parts = ctx.inputs[job.source].summary["split"], c.FITTED_ON[fit]
    events = ctx.read(c.SPLITS, job.source).where((F.col(c.SPLIT) == split) & F.col(c.PART).isin(*parts))
    return events.select(c.USER_IDX, c.ITEM_IDX, c.TS, c.VALUE)

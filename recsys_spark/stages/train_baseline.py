"""A baseline of `baselines/`, found by its file name: training events -> an index artefact in the run folder."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

import recsys_spark.baselines
from recsys_spark.core import columns as c
from recsys_spark.core import config as configuration
from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref

logger = log.get(__name__)
INDEX = "index"  # folder in the run folder


def names() -> list[str]:
    """Every file of `baselines/` that writes an index by itself (ALS has a stage of its own)."""
    files = Path(next(iter(recsys_spark.baselines.__path__))).glob("*.py")
    return sorted(file.stem for file in files if "\ndef write(events" in file.read_text(encoding="utf-8"))


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
    fit: Literal["train", "train+valid"] = "train+valid"  # a baseline chooses nothing on the validation part

    @field_validator("config", mode="after")
    @classmethod
    def _of_the_model(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "model" not in info.data:
            return value  # the missing or wrong `model` is reported by itself
        name = info.data["model"]
        return configuration.validate(find(name).Config, value, source=f"baseline {name}", key="config").model_dump(mode="json")


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when there is nothing to fit on."""
    began, baseline = time.monotonic(), find(job.model)
    events = _events(ctx, job)
    if events.isEmpty():
        raise DataError(f"split {ctx.inputs[job.source].summary['split']}, {job.fit}", found="no event", expected="at least one",
                        remedy="change the prepare step")
    num_items = int(ctx.inputs[job.source].summary["num_items"])
    found = baseline.write(events, baseline.Config(**job.config), ctx.run_dir / INDEX, num_items=num_items)
    facts = {"model": job.model, "task": baseline.TASK, "fit": job.fit, **found, "seconds": round(time.monotonic() - began, 1)}
    logger.info(log.fields(stage="train_baseline", **facts, index=ctx.run_dir / INDEX))
    return Outcome(tables=dict(ctx.inputs[job.source].output_versions), summary=facts)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    prepared = ctx.inputs[job.source].summary
    rows = int(prepared[c.TRAIN]) + (int(prepared[c.VALID]) if job.fit == "train+valid" else 0)
    return {"model": job.model, "events": rows, "driver_bytes": 4 * (int(prepared["num_items"]) + 1) * 4}


def _events(ctx: Context, job: Job) -> DataFrame:
    split, parts = ctx.inputs[job.source].summary["split"], job.fit.split("+")
    events = ctx.read(c.SPLITS, job.source).where((F.col(c.SPLIT) == split) & F.col(c.PART).isin(parts))
    return events.select(c.USER_IDX, c.ITEM_IDX, c.VALUE)

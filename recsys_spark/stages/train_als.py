"""Spark ALS: the stage `train_baseline` with its model given, so that `spark-submit jobs/train_als.py` needs no argument."""

from __future__ import annotations

from typing import Any, Literal

from recsys_spark.stages import train_baseline
from recsys_spark.stages.context import Context, Outcome


class Job(train_baseline.Job):
    stage: Literal["train_als"] = "train_als"  # type: ignore[assignment]
    model: Literal["als"] = "als"


def run(ctx: Context, job: Job) -> Outcome:
    return train_baseline.run(ctx, job)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    return train_baseline.plan(ctx, job)

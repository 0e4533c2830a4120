"""Spark ALS: the stage `train_baseline` with a fixed model, so that `spark-submit
jobs/train_als.py` needs no argument.
"""

from __future__ import annotations

from typing import Literal

from recsys_spark.stages.tuning import baseline
from recsys_spark.stages.tuning.baseline import check_steps as check_steps
from recsys_spark.stages.tuning.baseline import plan as plan
from recsys_spark.stages.tuning.baseline import run as run


class Job(baseline.Job):
    stage: Literal["train_als"] = "train_als"
    model: Literal["als"] = "als"

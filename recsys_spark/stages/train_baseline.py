"""A baseline of `baselines/`, found by its file name: training events -> an index artefact in the
run folder.
"""

from __future__ import annotations

from typing import Literal

from recsys_spark.stages.tuning import baseline
from recsys_spark.stages.tuning.baseline import check_steps as check_steps
from recsys_spark.stages.tuning.baseline import plan as plan
from recsys_spark.stages.tuning.baseline import run as run


class Job(baseline.Job):
    stage: Literal["train_baseline"] = "train_baseline"

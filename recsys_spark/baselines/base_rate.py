"""The click rate of the fitted events as the probability of every click: by construction RCE is 0
where the rate stays what it was.

Paper: nothing; the constant against which the RecSys Challenge 2020 measures RCE (L. Belli et al.
    Privacy-Preserving Recommender Systems Challenge on Twitter's Home Timeline. arXiv:2004.13715).
Differs: their constant is the rate of the measured rows, which nobody knows beforehand.

For: the point of reference of click probabilities.
Needs: labels 0 and 1.
Cold: the same for all.
Memory: one number.
Not for: any order: all are equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

TASK = "click"


class Config(Settings):
    pass


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Writes the index at `folder`: the rate is the bias of every item, known or not."""
    events, rate = training.events.agg(F.count(F.lit(1)), F.avg(c.VALUE)).collect()[0]
    rates = np.full(training.num_items + 1, rate, np.float32)
    artifact.write_dot(
        folder,
        model="base_rate",
        items=np.zeros((training.num_items + 1, 1), np.float32),
        popularity=rates,
        constant=(0.0,),
        bias=rates,
    )
    return {"events": int(events), "rate": float(rate)}

"""How often each item occurs in the training events: the same list for everybody, less what each has seen.

Paper: nothing; the usual point of reference (compare P. Cremonesi et al. Performance of Recommender Algorithms on Top-N
    Recommendation Tasks. RecSys 2010, doi:10.1145/1864708.1864721, "TopPop").
Differs: nothing known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.baselines import artifact
from recsys_spark.baselines.training import Training
from recsys_spark.core.config import Settings

TASK = "ranking"


class Config(Settings):
    """There is nothing to set."""


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """The index at `folder`: one number an item, and the constant query 1."""
    counts = artifact.counts(training.events, training.num_items)
    artifact.write_dot(folder, model="popularity", items=counts[:, None], popularity=counts, constant=(1.0,))
    return {"events": int(counts.sum(dtype=np.float64)), "cold_items": int((counts[1:] == 0).sum())}

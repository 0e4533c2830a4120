"""Items with the same users: a user's score of an item is the sum of its similarities to the items
of the user's history.

Paper: B. Sarwar et al. Item-Based Collaborative Filtering Recommendation Algorithms. WWW 2001,
    doi:10.1145/371920.372071; M. Deshpande, G. Karypis. Item-Based Top-N Recommendation Algorithms.
    ACM TOIS 22(1), 2004, doi:10.1145/963770.963776.
Differs: similarity.py's choice of weights and similarities; a history item counts 1 whatever its
    value, or less the older it is (`decay`, `last`).

For: a strong first ranking that is explained by what a user had before.
Needs: events; with `decay` or `last` their order.
Cold: a new user with a history is ranked at once; new items are never found.
Memory: 8 bytes for each of `neighbours` entries an item, on the driver and in each scoring worker.
Not for: catalogues where most items have a handful of events, or that change between two fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix, nearest
from recsys_spark.baselines.neighbours.matrix import Rows
from recsys_spark.baselines.neighbours.similarity import Similarity

TASK = "ranking"


class Config(Similarity):
    neighbours_of: Literal["scored", "history"] = (
        "scored"  # sum over the nearest items of the scored item, or of each item in the history
    )
    last: int = Field(0, ge=0)  # of a history only so many newest items count; 0: all
    decay: float = Field(1.0, gt=0, le=1)  # weight of each item of a history against the next one


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: items x items, sparse. Queries are histories."""
    with matrix.scratch(folder) as work:
        users, items = matrix.interactions(training, work, values=config.values)
        neighbours, done = nearest.of(items, users, config, training.events.sparkSession)
        kept = matrix.write(
            {
                "nearest": Rows(
                    nearest.entries(neighbours, turned=config.neighbours_of == "scored"),
                    training.num_items,
                )
            },
            work,
        )
        popularity = matrix.mapped(items).lengths
        facts = {
            "pairs": int(popularity.sum()),
            "multiplications": int(done.sum()),
            "entries": len(matrix.mapped(kept["nearest"]).data),
            "cold_items": int((popularity[1:] == 0).sum()),
        }
        artifact.write_sparse(
            folder,
            model="item_knn",
            num_rows=training.num_items,
            matrix=kept["nearest"],
            popularity=popularity.astype(np.float32),
            last=config.last,
            decay=config.decay,
        )
    return facts

"""Users whose items are the same: a user's score of an item is the sum of the similarities of the nearest users who have it.

Paper: P. Resnick et al. GroupLens: An Open Architecture for Collaborative Filtering of Netnews. CSCW 1994, doi:10.1145/192844.192905;
    for lists of items as in M. Ferrari Dacrema et al. (similarity.py).
Differs: similarity.py's choice of weights and similarities; for rankings only, so values are not centred. A user who came after the
    fit has no neighbours and gets the fallback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from recsys_spark.baselines import artifact, matrix, nearest, weighting
from recsys_spark.baselines.matrix import ROW
from recsys_spark.baselines.similarity import Similarity
from recsys_spark.baselines.training import Training
from recsys_spark.core import columns as c

TASK = "ranking"


class Config(Similarity):
    """As in similarity.py: rows are users, columns items."""


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """The index at `folder`: the interactions themselves, users x items, and each user's nearest users as the query's own rows."""
    with matrix.scratch(folder) as work:
        users, items = matrix.interactions(training, work, values=config.values)
        weighted = weighting.weighted(users, items, config)
        done = weighted.product.work()
        found = nearest.rows(training.events.sparkSession, weighted, config, done)
        popularity = matrix.mapped(items).lengths
        queries = found.select(F.col(ROW).alias(c.USER_IDX), artifact.ROWS, artifact.WEIGHTS)
        artifact.write_sparse(folder, model="user_knn", num_rows=training.num_users, matrix=users, queries=queries,
                              popularity=popularity.astype(np.float32))
    return {"pairs": int(popularity.sum()), "multiplications": int(done.sum()), "cold_items": int((popularity[1:] == 0).sum())}

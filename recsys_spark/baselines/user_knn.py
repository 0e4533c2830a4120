"""Users with the same items: a user's score of an item is the sum of the similarities of the
nearest users who have it.

Paper: P. Resnick et al. GroupLens: An Open Architecture for Collaborative Filtering of Netnews.
    CSCW 1994, doi:10.1145/192844.192905; for lists of items as in M. Ferrari Dacrema et al.
    (similarity.py). Significance weighting: J. L. Herlocker et al. An Algorithmic Framework for
    Performing Collaborative Filtering. SIGIR 1999, doi:10.1145/312624.312682.
Differs: similarity.py's choice of weights and similarities. With `task: rating` users are alike
    whose ratings depart alike from what user and item usually get (global_bias; the first paper
    takes the user's mean alone), and the prediction is that plus the weighted mean of the
    departures of the neighbours who rated the item, drawn to 0 by `dampen`; likeness by few common
    ratings is held down by `shrink`, where the third paper has a cut-off. Neighbours are the
    nearest of all users, not of those who rated the item; likeness below 0 counts as none. A user
    who came after the fit has no neighbours and gets the fallback.

For: a ranking, or with `task: rating` ratings, of sets with far fewer users than items.
Needs: events; for ratings their values.
Cold: a user who came after the fit gets the fallback; new items are never found.
Memory: 8 bytes an event, and 8 for each of `neighbours` entries a user.
Not for: many users: the work grows with the square of an item's users.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from pyspark.sql import functions as F

from recsys_spark.baselines import global_bias
from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix, nearest
from recsys_spark.baselines.neighbours.matrix import ROW
from recsys_spark.baselines.neighbours.similarity import Similarity
from recsys_spark.core import columns as c


class Config(Similarity):
    """Settings of similarity.py, where rows are users and columns items."""

    # Rating: predicts values from those of the nearest users
    task: Literal["ranking", "rating"] = "ranking"
    dampen: float = Field(1.0, ge=0)  # rating: added similarity of a neighbour with deviation 0
    bias: global_bias.Config = global_bias.Config()  # rating: baseline that deviations are from

    @model_validator(mode="after")
    def _departures_fit(self) -> Config:
        if self.task == "rating" and (self.weighting != "none" or self.similarity != "cosine"):
            raise ValueError(
                "weighting none and similarity cosine: departures from a mean are below 0 as "
                "often as above"
            )
        return self


def task(config: Config) -> str:
    return config.task


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: the interactions (or deviations), users x items, and
    each user's nearest users as the rows of its query.
    """
    return (
        _ratings(training, config, folder)
        if config.task == "rating"
        else _lists(training, config, folder)
    )


def _lists(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    with matrix.scratch(folder) as work:
        users, items = matrix.interactions(training, work, values=config.values)
        neighbours, done = nearest.of(users, items, config, training.events.sparkSession)
        popularity = matrix.mapped(items).lengths
        queries = neighbours.select(F.col(ROW).alias(c.QUERY_IDX), artifact.ROWS, artifact.WEIGHTS)
        artifact.write_sparse(
            folder,
            model="user_knn",
            num_rows=training.num_users,
            matrix=users,
            queries=queries,
            popularity=popularity.astype(np.float32),
        )
    return {
        "pairs": int(popularity.sum()),
        "multiplications": int(done.sum()),
        "cold_items": int((popularity[1:] == 0).sum()),
    }


def _ratings(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    ratings = training.events.repartition(c.QUERY_IDX).persist()
    try:
        fitted = global_bias.fit(ratings, config.bias, training.num_items)
        usual = ratings.sparkSession.createDataFrame(global_bias.table_of(fitted.expected))
        departures = (
            ratings.join(F.broadcast(usual), on=c.ITEM_IDX, how="inner")
            .join(fitted.users, on=c.QUERY_IDX, how="inner")
            .withColumn(
                c.VALUE, F.col(c.VALUE) - F.col(global_bias.EXPECTED) - F.col(global_bias.BIAS)
            )
        )
        with matrix.scratch(folder) as work:
            users, items = matrix.interactions(
                replace(training, events=departures), work, values=True
            )
            neighbours, done = nearest.of(users, items, config, ratings.sparkSession)
            queries = fitted.users.withColumnRenamed(global_bias.BIAS, artifact.OFFSET).join(
                neighbours.withColumnRenamed(ROW, c.QUERY_IDX), on=c.QUERY_IDX, how="left"
            )
            expected = fitted.expected.astype(np.float32)
            artifact.write_sparse(
                folder,
                model="user_knn",
                num_rows=training.num_users,
                matrix=users,
                queries=queries,
                bias=expected,
                popularity=expected,
                dampen=config.dampen,
                limits=fitted.limits,
            )
            cold = int((matrix.mapped(items).lengths[1:] == 0).sum())
    finally:
        ratings.unpersist()
    return {"multiplications": int(done.sum()), "cold_items": cold}

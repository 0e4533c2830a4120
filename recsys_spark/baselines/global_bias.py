"""The mean rating plus the bias of the user and of the item.

Paper: Yehuda Koren. Factor in the Neighbors: Scalable and Accurate Collaborative Filtering. ACM
    TKDD 4(1), 2010, doi:10.1145/1644873.1644874 (equation 1, with the regularised least squares of
    section 2.1).
Differs: solved by alternating between users and items, each exactly, until nothing moves by more
    than `tolerance`; users and items have a regulariser each; predictions are clamped to the range
    of the training values.

For: the point of reference of every rating.
Needs: rated events.
Cold: a new user or item is predicted from the other side alone, both new by the mean.
Memory: a number for each user and item.
Not for: a ranking: its order of items is the same for all users.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

TASK = "rating"
BIAS, EXPECTED = "bias", "expected"


class Config(Settings):
    reg_user: float = Field(5.0, ge=0)  # number of ratings at the mean added to each user's ratings
    reg_item: float = Field(2.0, ge=0)  # the same of each item's ratings
    sweeps: int = Field(10, ge=1)  # maximum
    tolerance: float = Field(0.005, gt=0)  # largest change of an item's bias at which to stop


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: score = b_u * 1 + (mean + b_i)."""
    num_items = training.num_items
    ratings = (
        training.events.select(c.QUERY_IDX, c.ITEM_IDX, c.VALUE).repartition(c.QUERY_IDX).persist()
    )
    try:
        fitted = fit(ratings, config, num_items)
        queries = fitted.users.select(
            c.QUERY_IDX, F.array(F.col(BIAS).cast("float")).alias(artifact.VECTOR)
        )
        items = np.ones((num_items + 1, 1), dtype=np.float32)
        items[0] = 0.0
        usual = fitted.expected.astype(np.float32)
        artifact.write_dot(
            folder,
            model="global_bias",
            items=items,
            bias=usual,
            popularity=usual,
            queries=queries,
            limits=fitted.limits,
        )
    finally:
        ratings.unpersist()
    return {"mean": fitted.mean, "sweeps": fitted.sweeps}


class Fitted(NamedTuple):
    mean: float
    limits: tuple[float, float]  # the least and the greatest value
    # (I + 1,): prediction for a user without ratings; at 0 the mean
    expected: NDArray[np.float64]
    users: DataFrame  # (query_idx, bias)
    sweeps: int


def fit(ratings: DataFrame, config: Config, num_items: int) -> Fitted:
    """ratings (query_idx, item_idx, value), which are read once per sweep."""
    mean, low, high = ratings.agg(F.avg(c.VALUE), F.min(c.VALUE), F.max(c.VALUE)).collect()[0]
    item_bias, sweeps = _solve(ratings, mean, config, num_items)
    return Fitted(
        mean, (low, high), mean + item_bias, _users(ratings, mean, item_bias, config), sweeps
    )


def _solve(
    ratings: DataFrame, mean: float, config: Config, num_items: int
) -> tuple[NDArray[np.float64], int]:
    """(item biases (I + 1,), number of sweeps); 0 for an item without ratings. User biases are a
    function of item biases, so nothing else is kept between sweeps.
    """
    bias, sweep, moved = np.zeros(num_items + 1), 0, np.inf
    while sweep < config.sweeps and moved > config.tolerance:
        users = _users(ratings, mean, bias, config)
        rest = F.sum(F.col(c.VALUE) - mean - F.col(BIAS)) / (F.count("*") + config.reg_item)
        departures = (
            ratings.join(users, on=c.QUERY_IDX, how="inner")
            .groupBy(c.ITEM_IDX)
            .agg(rest.alias("new"))
            .toArrow()
        )
        before, bias = bias, np.zeros(num_items + 1)
        bias[departures.column(c.ITEM_IDX).to_numpy()] = departures.column("new").to_numpy()
        sweep, moved = sweep + 1, float(np.abs(bias - before).max())
    return bias, sweep


def _users(
    ratings: DataFrame, mean: float, item_bias: NDArray[np.float64], config: Config
) -> DataFrame:
    """(query_idx, bias): each user's regularised mean deviation, given the item biases."""
    usual = ratings.sparkSession.createDataFrame(table_of(mean + item_bias))
    rest = F.sum(F.col(c.VALUE) - F.col(EXPECTED)) / (F.count("*") + config.reg_user)
    return (
        ratings.join(F.broadcast(usual), on=c.ITEM_IDX, how="inner")
        .groupBy(c.QUERY_IDX)
        .agg(rest.alias(BIAS))
    )


def table_of(expected: NDArray[Any]) -> pa.Table:
    """(item_idx, expected) of values (I + 1,)."""
    return pa.table(
        {
            c.ITEM_IDX: np.arange(len(expected), dtype=np.int32),
            EXPECTED: expected.astype(np.float64),
        }
    )

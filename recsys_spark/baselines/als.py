"""Alternating least squares on Spark, explicit and implicit.

Paper: Yifan Hu, Yehuda Koren, Chris Volinsky. Collaborative Filtering for Implicit Feedback Datasets. ICDM 2008
    (doi:10.1109/ICDM.2008.22); explicit: Yunhong Zhou et al. Large-Scale Parallel Collaborative Filtering for the Netflix Prize. AAIM 2008.
Differs: Spark multiplies the regularisation by the number of a row's ratings (the weighted-lambda form of the second paper) in
    both forms; explicit factors are fitted to the rating less the training mean, which Spark's own form leaves in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

TASK = "ranking"


class Config(Settings):
    implicit: bool = True
    rank: int = Field(64, ge=1)
    reg: float = Field(0.01, ge=0)  # times the number of a row's ratings
    alpha: float = Field(1.0, ge=0)  # implicit: confidence = 1 + alpha * value
    iterations: int = Field(10, ge=1)


@dataclass(frozen=True)
class Factors:
    """users: (user_idx int, vector array<float>), only those with training events. items: float32 (I + 1, D), zero where there are none."""

    users: DataFrame
    items: NDArray[np.float32]
    mean: float  # added to an explicit prediction; 0 for implicit


def fit(events: DataFrame, config: Config, *, num_items: int, seed: int, blocks: int) -> Factors:
    """events (user_idx, item_idx, value), each pair once. Implicit: value is the strength, usually 1.

    Rows go in partitioned and sorted by a fixed rule, so that sums are added in the same order whenever it runs on as many blocks.
    """
    mean = 0.0 if config.implicit else float(events.agg(F.avg(c.VALUE)).collect()[0][0])
    ratings = events.select(c.USER_IDX, c.ITEM_IDX, (F.col(c.VALUE) - F.lit(mean)).cast("float").alias(c.VALUE))
    ratings = ratings.repartition(blocks, c.USER_IDX).sortWithinPartitions(c.USER_IDX, c.ITEM_IDX)
    model = ALS(
        rank=config.rank, maxIter=config.iterations, regParam=config.reg, alpha=config.alpha, implicitPrefs=config.implicit,
        userCol=c.USER_IDX, itemCol=c.ITEM_IDX, ratingCol=c.VALUE, seed=seed % 2**31, numUserBlocks=blocks, numItemBlocks=blocks,
        coldStartStrategy="nan",  # never used: cold users and items are the scorer's business
    ).fit(ratings)
    users = model.userFactors.select(F.col("id").alias(c.USER_IDX), F.col("features").alias("vector"))
    return Factors(users, _dense(model.itemFactors, num_items, config.rank), mean)


def _dense(factors: DataFrame, num_items: int, rank: int) -> NDArray[np.float32]:
    found = factors.toArrow()
    items = np.zeros((num_items + 1, rank), dtype=np.float32)
    items[found.column("id").to_numpy()] = np.stack(found.column("features").to_numpy()) if len(found) else 0
    return items

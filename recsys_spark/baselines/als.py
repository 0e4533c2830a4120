"""Alternating least squares on Spark, explicit and implicit.

Paper: Yifan Hu, Yehuda Koren, Chris Volinsky. Collaborative Filtering for Implicit Feedback
    Datasets. ICDM 2008 (doi:10.1109/ICDM.2008.22); explicit: Yunhong Zhou et al. Large-Scale
    Parallel Collaborative Filtering for the Netflix Prize. AAIM 2008.
Differs: Spark multiplies the regularisation by the number of a row's ratings (the weighted-lambda
    form of the second paper) in both forms; explicit factors are fitted to the rating less the
    training mean, which Spark's own form leaves in.

For: a ranking, or with `implicit: false` ratings, of any number of users and items on a cluster.
Needs: events; explicit: their values.
Cold: a new user with a history is folded in where `implicit`; new items are never found.
Memory: 4 bytes * `rank` * (users + items), spread over the executors; the items' part on the
    driver.
Not for: the best figure: `ials` has more settings and reaches more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import NormalEquations

# Iterations after which the factors are written and their history is cut. Each adds some ten stages
# to the plan of the next; a task with the plan of ten overflowed its stack, which ends the JVM.
CHECKPOINT_EVERY = 4


class Config(Settings):
    implicit: bool = True  # true: ranks by events; false: predicts ratings
    rank: int = Field(64, ge=1)  # width of the factors
    reg: float = Field(0.01, ge=0)  # multiplied by the number of a row's ratings
    alpha: float = Field(1.0, ge=0)  # implicit: confidence = 1 + alpha
    iterations: int = Field(10, ge=1)  # sweeps over users and items
    blocks: int = Field(4, ge=1)  # blocks of users and of items; changes the order of summation


@dataclass(frozen=True)
class Factors:
    """users: (query_idx int, vector array<float>), only those with training events. items: float32
    (I + 1, D), zero for items without training events.
    """

    users: DataFrame
    items: NDArray[np.float32]
    mean: float  # added to an explicit prediction; 0 for implicit


def task(config: Config) -> str:
    return "ranking" if config.implicit else "rating"


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: user and item factors; a prediction of the explicit
    form is clamped to the range of the training values.
    """
    with matrix.scratch(folder) as work:
        training.events.sparkSession.sparkContext.setCheckpointDir(work.absolute().as_uri())
        return _write(training, config, folder)


def _write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    factors = fit(training.events, config, num_items=training.num_items, seed=training.seed)
    mean = np.full(training.num_items + 1, factors.mean, dtype=np.float32)
    doubled = factors.items.astype(np.float64)
    artifact.write_dot(
        folder,
        model="als",
        items=factors.items,
        queries=factors.users,
        bias=None if config.implicit else mean,
        limits=None if config.implicit else _range(training.events),
        popularity=artifact.counts(training.events, training.num_items)
        if config.implicit
        else mean,
        fold_in=equations(config) if config.implicit else None,
        gram=doubled.T @ doubled if config.implicit else None,
    )
    return {"cold_items": training.num_items - int(np.abs(factors.items[1:]).any(axis=1).sum())}


def equations(config: Config) -> NormalEquations:
    """The equations of a user in Spark's implicit form: (1 + alpha) * (1 - x.v)^2 where there is an
    event, (x.v)^2 elsewhere, regularised by reg times the number of events.

    Spark solves users last, so these equations give the users' vectors for the final item vectors.
    """
    return NormalEquations(
        unobserved=1.0,
        observed=config.alpha,
        pull=1.0 + config.alpha,
        reg=config.reg,
        exponent=1.0,
        offset=0.0,
    )


def fit(events: DataFrame, config: Config, *, num_items: int, seed: int) -> Factors:
    """events (query_idx, item_idx, value). Implicit: a pair counts once, with strength 1; explicit:
    each pair occurs once.

    Rows are partitioned and sorted by a fixed rule, so that sums are added in the same order for
    the same number of blocks. Plans are cut in the checkpoint folder of Spark's context, where it
    has one.
    """
    mean = 0.0 if config.implicit else float(events.agg(F.avg(c.VALUE)).collect()[0][0])
    value = F.lit(1.0) if config.implicit else F.col(c.VALUE) - F.lit(mean)
    ratings = events.select(
        c.QUERY_IDX, c.ITEM_IDX, value.cast("float").alias(c.VALUE)
    ).repartition(config.blocks, c.QUERY_IDX)
    ratings = (ratings.distinct() if config.implicit else ratings).sortWithinPartitions(
        c.QUERY_IDX, c.ITEM_IDX
    )
    model = ALS(
        rank=config.rank,
        maxIter=config.iterations,
        regParam=config.reg,
        alpha=config.alpha,
        implicitPrefs=config.implicit,
        userCol=c.QUERY_IDX,
        itemCol=c.ITEM_IDX,
        ratingCol=c.VALUE,
        seed=seed % 2**31,
        numUserBlocks=config.blocks,
        numItemBlocks=config.blocks,
        checkpointInterval=CHECKPOINT_EVERY,
        coldStartStrategy="nan",  # never used: the scorer handles cold users and items
    ).fit(ratings)
    users = model.userFactors.select(
        F.col("id").alias(c.QUERY_IDX), F.col("features").alias("vector")
    )
    return Factors(users, _dense(model.itemFactors, num_items, config.rank), mean)


def _range(events: DataFrame) -> tuple[float, float]:
    low, high = events.agg(F.min(c.VALUE), F.max(c.VALUE)).collect()[0]
    return float(low), float(high)


def _dense(factors: DataFrame, num_items: int, rank: int) -> NDArray[np.float32]:
    table = factors.toArrow()
    items = np.zeros((num_items + 1, rank), dtype=np.float32)
    items[table.column("id").to_numpy()] = (
        np.stack(table.column("features").to_numpy()) if len(table) else 0
    )
    return items

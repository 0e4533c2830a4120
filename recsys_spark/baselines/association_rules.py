"""Rules "who has item j also takes item i", mined from baskets: a user's score of an item is the
sum over the rules from the user's history to it.

Paper: R. Agrawal, R. Srikant. Fast Algorithms for Mining Association Rules. VLDB 1994; fp_growth:
    J. Han, J. Pei, Y. Yin. Mining Frequent Patterns without Candidate Generation. SIGMOD 2000,
    doi:10.1145/342009.335372, in Spark's parallel form (H. Li et al. PFP. RecSys 2008,
    doi:10.1145/1454008.1454027).
Differs: rules have one item on either side, so that scoring them is a product of matrices.

Two miners find the same rules. `fp_growth` finds the frequent sets of any size, of which the pairs
are used: it suits short baskets (sessions) and is infeasible for long ones, where sets of many
items are frequent too. `pairs` counts only pairs, by blocked products (products.py): the work is
the sum of squared basket sizes, independent of the support.

For: baskets and sessions, and rules that a person can read.
Needs: events; their times where a pause ends a basket.
Cold: a new user with a history is ranked at once; new items are never found.
Memory: 8 bytes a rule.
Not for: sparse data: most items reach no `min_support`, so that they have no rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.ml.fpm import FPGrowth
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix, products, weighting
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.baselines.neighbours.products import Product
from recsys_spark.baselines.neighbours.similarity import Similarity
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
SHAPE = f"{ROW} int, {COLUMN} int, {ENTRY} float"


class Config(Settings):
    miner: Literal["fp_growth", "pairs"] = "pairs"  # how rules are found; both find the same
    min_support: float = Field(0.01, gt=0, le=1)  # share of the baskets that hold both items
    # Least share of the baskets with j that also hold i
    min_confidence: float = Field(0.0, ge=0, le=1)
    measure: Literal["confidence", "lift"] = "confidence"  # value that a rule adds to a score
    # A pause longer than this begins a new basket; 0: all items of a user are one basket
    session_gap_s: int = Field(0, ge=0)


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: row j holds the rules with j on the left. Queries are
    histories. Raises DataError when no rule is found.
    """
    baskets = _baskets(training, config.session_gap_s)
    with matrix.scratch(folder) as work:
        held, items = matrix.interactions(baskets, work, values=False)
        counts = matrix.mapped(items).lengths
        number = int((matrix.mapped(held).lengths > 0).sum())
        least = math.ceil(config.min_support * number)
        if config.miner == "pairs":
            mined = _pairs(
                baskets,
                weighting.weighted(items, held, Similarity()).product,
                counts,
                number,
                config,
            )
        else:
            mined = _fp_growth(baskets, counts, number, config)
        kept = matrix.write({"rules": Rows(mined, training.num_items)}, work)["rules"]
        rules = matrix.mapped(kept)
        facts = {
            "baskets": number,
            "mean_basket": round(float(counts.sum() / number), 1),
            "rules": len(rules.data),
            "items_with_rules": int((rules.lengths > 0).sum()),
        }
        if not facts["rules"]:
            raise DataError(
                "association rules",
                found=f"none in {number:,} baskets",
                expected=f"pairs that {least:,} baskets hold",
                remedy="lower min_support or min_confidence",
            )
        artifact.write_sparse(
            folder,
            model="association_rules",
            num_rows=training.num_items,
            matrix=kept,
            popularity=counts.astype(np.float32),
        )
    return facts


def rules(
    pair: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    baskets: int,
    config: Config,
) -> NDArray[np.float64]:
    """Values (n,) of the rules left -> right; 0: no rule. pair, left, right (n,): numbers of
    baskets with both items, the left one, the right one; baskets: the number of all baskets.
    """
    confidence = pair / left
    kept = (pair >= math.ceil(config.min_support * baskets)) & (confidence >= config.min_confidence)
    value = confidence if config.measure == "confidence" else confidence * baskets / right
    return np.where(kept, value, 0.0)


def _baskets(training: Training, gap: int) -> Training:
    """The events with their basket's number as query_idx. A basket has all events of a user, or a
    run of them without a pause longer than `gap`.
    """
    if not gap:
        return training
    of_user = Window.partitionBy(c.QUERY_IDX).orderBy(c.TS, c.ITEM_IDX)
    begins = F.coalesce((F.col(c.TS) - F.lag(c.TS).over(of_user) > gap).cast("int"), F.lit(0))
    numbered = training.events.select(
        c.QUERY_IDX, c.ITEM_IDX, c.VALUE, c.TS, begins.alias("begins")
    )
    numbered = numbered.withColumn(
        "session",
        F.sum("begins").over(of_user.rowsBetween(Window.unboundedPreceding, 0)).cast("int"),
    )
    # 8 bytes per user
    last = numbered.groupBy(c.QUERY_IDX).agg(F.max("session").alias("last")).toArrow()
    users, sessions = last.column(c.QUERY_IDX).to_numpy(), last.column("last").to_numpy() + 1
    first = pa.table(
        {c.QUERY_IDX: users, "first": (np.cumsum(sessions) - sessions + 1).astype(np.int32)}
    )
    offsets = training.events.sparkSession.createDataFrame(first)
    events = numbered.join(offsets, on=c.QUERY_IDX, how="inner").select(
        (F.col("first") + F.col("session")).cast("int").alias(c.QUERY_IDX),
        c.ITEM_IDX,
        c.TS,
        c.VALUE,
    )
    return replace(training, events=events, num_users=int(sessions.sum()))


def _pairs(
    baskets: Training, product: Product, counts: NDArray[np.int64], number: int, config: Config
) -> DataFrame:
    def task(first: int, last: int) -> Iterator[pa.RecordBatch]:
        for start, block in product.blocks(first, last):
            left = np.repeat(np.arange(start, start + block.shape[0]), np.diff(block.indptr))
            yield _entries(left, block.indices, block.data, counts, number, config)

    return products.run(baskets.events.sparkSession, task, SHAPE, product.work())


def _fp_growth(
    baskets: Training, counts: NDArray[np.int64], number: int, config: Config
) -> DataFrame:
    sets = baskets.events.groupBy(c.QUERY_IDX).agg(F.collect_set(c.ITEM_IDX).alias("items"))
    frequent = (
        FPGrowth(itemsCol="items", minSupport=config.min_support)
        .fit(sets)
        .freqItemsets.where(F.size("items") == 2)
    )
    pairs = frequent.select(
        F.col("items")[0].alias(ROW), F.col("items")[1].alias(COLUMN), F.col("freq").cast("double")
    )

    def turned(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            first, second, pair = (batch.column(i).to_numpy() for i in range(3))
            yield _entries(first, second, pair, counts, number, config)
            yield _entries(second, first, pair, counts, number, config)

    return pairs.mapInArrow(turned, SHAPE)


def _entries(
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    pair: NDArray[np.float64],
    counts: NDArray[np.int64],
    number: int,
    config: Config,
) -> pa.RecordBatch:
    value = rules(pair, counts[left], counts[right], number, config)
    kept = (value > 0) & (left != right)
    columns = (
        left[kept].astype(np.int32),
        right[kept].astype(np.int32),
        value[kept].astype(np.float32),
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(column) for column in columns], names=[ROW, COLUMN, ENTRY]
    )

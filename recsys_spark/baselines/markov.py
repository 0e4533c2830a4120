"""What follows what: a query's score of an item is the sum, over the last items of its history, of
how often the item came soon after them.

Paper: the Markov chain of S. Rendle, C. Freudenthaler, L. Schmidt-Thieme. Factorizing Personalized
    Markov Chains for Next-Basket Recommendation. WWW 2010, doi:10.1145/1772690.1772773, its
    transitions counted and not factorized.
Differs: transitions over up to `window` events, a distance d counting d ** -`distance`; a history's
    last `last` items count, the n-th from the end `decay` ** n; a row is divided by its sum to the
    power `normalise`, a column by its item's number of events to the power `discount`.

The order is what it reads: of data without true times (or with those of a form that was filled in)
it learns the order in which they were shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
ORDERED = True  # the events come with their place in the query's history


class Config(Settings):
    window: int = Field(5, ge=1, le=50)  # events after an item that count as following it
    distance: float = Field(1.0, ge=0)  # a follower d events later counts d ** -distance
    normalise: float = Field(1.0, ge=0, le=1)  # 1: shares of what follows an item; 0: counts
    discount: float = Field(0.1, ge=0, le=1)  # of popular items
    last: int = Field(10, ge=1)  # events of the history that count
    decay: float = Field(0.7, gt=0, le=1)  # weight of each against the one after it


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: items x items, sparse. Queries are histories, their
    order read. Raises DataError where no item follows another.
    """
    with matrix.scratch(folder) as work:
        entries = _weighted(_followers(training.events, config.window), training.events, config)
        kept = matrix.write({"followers": Rows(entries, training.num_items)}, work)["followers"]
        followers = matrix.mapped(kept)
        if not len(followers.data):
            raise DataError(
                "transitions of markov",
                found="no query with two events on different items",
                expected="histories of two events and more",
                remedy="take another baseline, such as popularity",
            )
        facts = {
            "entries": len(followers.data),
            "items_with_followers": int((followers.lengths > 0).sum()),
        }
        artifact.write_sparse(
            folder,
            model="markov",
            num_rows=training.num_items,
            matrix=kept,
            popularity=artifact.counts(training.events, training.num_items),
            last=config.last,
            decay=config.decay,
        )
    return facts


def _followers(events: DataFrame, window: int) -> DataFrame:
    """(row, column, and for each distance d up to `window` how often `column` came d events after
    `row`): whole numbers, so that no order of summing them matters.
    """
    of_query = Window.partitionBy(c.QUERY_IDX).orderBy(c.PLACE)
    before = [F.lag(c.ITEM_IDX, d).over(of_query) for d in range(1, window + 1)]
    rows = events.select(F.col(c.ITEM_IDX).alias(COLUMN), F.array(*before).alias("before"))
    pairs = rows.select(COLUMN, F.posexplode("before").alias("place", ROW))
    followed = pairs.where(F.col(ROW).isNotNull() & (F.col(ROW) != F.col(COLUMN)))
    times = [F.count_if(F.col("place") + 1 == d).alias(f"d{d}") for d in range(1, window + 1)]
    return followed.groupBy(ROW, COLUMN).agg(*times)


def _weighted(followers: DataFrame, events: DataFrame, config: Config) -> DataFrame:
    """(row, column, entry) from the counts of `_followers`."""
    distances = range(1, config.window + 1)

    def weight(count: str) -> Column:
        terms = [F.col(count.format(d)) * float(d**-config.distance) for d in distances]
        return sum(terms[1:], terms[0])

    entries = followers.select(ROW, COLUMN, *(f"d{d}" for d in distances))
    value = weight("d{}")
    if config.normalise:
        sums = [F.sum(f"d{d}").alias(f"sum{d}") for d in distances]
        entries = entries.join(followers.groupBy(ROW).agg(*sums), on=ROW)
        value = value / F.pow(weight("sum{}"), F.lit(config.normalise))
    if config.discount:
        number = events.groupBy(F.col(c.ITEM_IDX).alias(COLUMN)).agg(F.count("*").alias("number"))
        entries = entries.join(number, on=COLUMN)
        value = value / F.pow("number", F.lit(config.discount))
    return entries.select(ROW, COLUMN, value.cast("float").alias(ENTRY))

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

For: the next event: what came just before says most.
Needs: events in their true order.
Cold: a new user with a history is ranked at once; new items are never found.
Memory: 8 bytes for each pair of items that follow each other.
Not for: events whose order is that of a form or an import, or a question about taste over months.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
WEIGHT, UNIT = "weight", 1 << 20  # a follower one event later weighs so many units


class Config(Settings):
    window: int = Field(5, ge=1, le=50)  # events after an item that count as following it
    distance: float = Field(1.0, ge=0)  # a follower d events later counts d ** -distance
    normalise: float = Field(1.0, ge=0, le=1)  # 1: shares of what follows an item; 0: counts
    discount: float = Field(0.1, ge=0, le=1)  # of popular items
    last: int = Field(10, ge=1)  # events of the history that count
    decay: float = Field(0.7, gt=0, le=1)  # weight of each against the one after it


def reads(config: Config) -> tuple[str, ...]:
    return (c.PLACE,)


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: items x items, sparse. Queries are histories, their
    order read. Raises DataError where no item follows another.
    """
    with matrix.scratch(folder) as work:
        followers = _followers(training.events, config).persist()
        entries = _weighted(followers, training.events, config)
        kept = matrix.write({"followers": Rows(entries, training.num_items)}, work)["followers"]
        followers.unpersist()
        rows = matrix.mapped(kept)
        if not len(rows.data):
            raise DataError(
                "transitions of markov",
                found="no query with two events on different items",
                expected="histories of two events and more",
                remedy="take another baseline, such as popularity",
            )
        facts = {
            "entries": len(rows.data),
            "items_with_followers": int((rows.lengths > 0).sum()),
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


def _followers(events: DataFrame, config: Config) -> DataFrame:
    """(row, column, weight long): how often `column` came after `row`, in units of `UNIT`, whole
    numbers so that no order of summing them matters.
    """
    ordered = events.select(c.QUERY_IDX, c.PLACE, c.ITEM_IDX).repartition(c.QUERY_IDX)
    ordered = ordered.sortWithinPartitions(c.QUERY_IDX, c.PLACE)
    pairs = ordered.mapInArrow(partial(_counted, config), f"{ROW} int, {COLUMN} int, {WEIGHT} long")
    return pairs.groupBy(ROW, COLUMN).agg(F.sum(WEIGHT).alias(WEIGHT))


def _counted(config: Config, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pairs of events up to `window` apart, summed within each batch. The last events of a batch
    are kept for the first of the next.
    """
    distances = np.arange(1.0, config.window + 1)
    weights = np.round(distances**-config.distance * UNIT).astype(np.int64)
    query, item = np.zeros(0, np.int32), np.zeros(0, np.int32)
    for batch in batches:
        new = batch.num_rows
        query = np.concatenate([query, batch.column(0).to_numpy()])
        item = np.concatenate([item, batch.column(2).to_numpy()])
        parts = [_apart(query, item, d, new, weight) for d, weight in enumerate(weights, 1)]
        row, column, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        yield pa.RecordBatch.from_arrays(_summed(row, column, weight), names=[ROW, COLUMN, WEIGHT])
        query, item = query[-config.window :], item[-config.window :]


def _apart(
    query: NDArray[np.int32], item: NDArray[np.int32], d: int, new: int, weight: np.int64
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Pairs (row, column, weight) of one query's events d apart, of which the later is among the
    last `new`.
    """
    first = max(0, len(query) - new - d)
    before, after = item[first : len(item) - d], item[first + d :]
    same = (query[first : len(query) - d] == query[first + d :]) & (before != after)
    return before[same], after[same], np.full(int(same.sum()), weight)


def _summed(
    row: NDArray[np.int32], column: NDArray[np.int32], weight: NDArray[np.int64]
) -> list[pa.Array]:
    pair = row.astype(np.int64) << 32 | column
    order = np.argsort(pair)
    pair = pair[order]
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    sums = np.add.reduceat(weight[order], starts) if len(starts) else weight
    return [
        pa.array((pair[starts] >> 32).astype(np.int32)),
        pa.array((pair[starts] & 0xFFFFFFFF).astype(np.int32)),
        pa.array(sums),
    ]


def _weighted(followers: DataFrame, events: DataFrame, config: Config) -> DataFrame:
    """(row, column, entry) from the sums of `_followers`."""
    entries, value = followers, F.col(WEIGHT) / UNIT
    if config.normalise:
        entries = entries.join(followers.groupBy(ROW).agg(F.sum(WEIGHT).alias("all")), on=ROW)
        value = value / F.pow(F.col("all") / UNIT, F.lit(config.normalise))
    if config.discount:
        number = events.groupBy(F.col(c.ITEM_IDX).alias(COLUMN)).agg(F.count("*").alias("number"))
        entries = entries.join(number, on=COLUMN)
        value = value / F.pow("number", F.lit(config.discount))
    return entries.select(ROW, COLUMN, value.cast("float").alias(ENTRY))

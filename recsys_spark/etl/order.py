"""Exact ranks and fixed pseudo-random orders of big columns, without sorting them in one place.

A histogram of 65,536 buckets says in which bucket each wanted rank lies; only those buckets are looked into. Two passes of
map-side aggregation, a driver that holds the histogram and rows * ranks / 65,536 numbers (20 M rows, 63 ranks: 20,000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import seeds

BUCKETS = 1 << 16
HASH_END = 1 << 63  # `hashed` lies in [0, HASH_END)


def hashed(seed: int, purpose: str, *columns: str) -> Column:
    """A pseudo-random long in [0, 2**63) that depends on the seed, the purpose and the row's values alone."""
    key = F.lit(seeds.derive(seed, purpose)).cast("long")
    return F.shiftrightunsigned(F.xxhash64(key, *map(F.col, columns)), 1)


@dataclass(frozen=True)
class Ranks:
    """The sorted order of a column of longs, ready to be asked for the numbers at some ranks."""

    numbers: DataFrame  # one column, `number`
    low: int
    width: int  # of a bucket
    buckets: np.ndarray  # int64, increasing
    ends: np.ndarray  # int64: rows up to and with each bucket

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, ranks: Sequence[int]) -> list[int]:
        """The numbers that stand at `ranks` (from 0, each below `count`) of the sorted column."""
        if not len(ranks):
            return []
        assert min(ranks) >= 0 and max(ranks) < self.count, f"ranks {min(ranks)}..{max(ranks)} of {self.count} rows"
        inside = np.searchsorted(self.ends, ranks, side="right")  # position of each rank's bucket
        positions = np.unique(inside)
        before = np.concatenate(([0], self.ends))[positions]  # rows before each of those buckets
        bucket = _bucket(self.low, self.width)
        counted = self.numbers.where(bucket.isin(self.buckets[positions].tolist())).groupBy("number").count().toArrow()
        numbers, counts = (counted.column(name).to_numpy() for name in ("number", "count"))
        order = np.argsort(numbers)
        numbers, ends = numbers[order], np.cumsum(counts[order])
        # Rank within the rows looked into: subtract the rows of the buckets left out.
        sizes = self.ends[positions] - before
        kept_before = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        shift = (before - kept_before)[np.searchsorted(positions, inside)]
        return [int(number) for number in numbers[np.searchsorted(ends, np.asarray(ranks) - shift, side="right")]]


def ranks(rows: DataFrame, number: Column, low: int | None = None, high: int | None = None) -> Ranks:
    """Count `number` (long, never null) into buckets. `low` and `high` save a pass when every number lies between them."""
    numbers = rows.select(number.cast("long").alias("number"))
    if low is None or high is None:
        found = numbers.agg(F.min("number"), F.max("number")).collect()[0]
        low, high = (0, 0) if found[0] is None else (int(found[0]), int(found[1]))
    width = (high - low) // BUCKETS + 1
    counted = numbers.groupBy(_bucket(low, width).alias("bucket")).count().toArrow()
    buckets, counts = (counted.column(name).to_numpy() for name in ("bucket", "count"))
    order = np.argsort(buckets)
    return Ranks(numbers, low, width, buckets[order], np.cumsum(counts[order]))


def slot(number: Column, bounds: Sequence[int], first: int = 0) -> Column:
    """How many of the increasing `bounds` are at most `number`, by bisection: an int column."""
    if not bounds:
        return F.lit(first)
    middle = len(bounds) // 2
    below, above = slot(number, bounds[:middle], first), slot(number, bounds[middle + 1:], first + middle + 1)
    return F.when(number < F.lit(bounds[middle]), below).otherwise(above)


def _bucket(low: int, width: int) -> Column:
    return F.expr(f"(number - {low}L) div {width}L")

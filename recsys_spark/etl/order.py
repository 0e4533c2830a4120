"""Exact ranks and fixed pseudo-random orders of big columns, without a global sort.

A histogram of 65,536 buckets locates the bucket of each requested rank; only those buckets are
read. Takes two passes of map-side aggregation; the driver holds the histogram and rows * ranks /
65,536 numbers (20 M rows, 63 ranks: 20,000). A column that is known to be short is sorted by the
driver, in one pass without an exchange.
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
SHORT = 1 << 21  # rows that the driver sorts itself: 16 MB


def hashed(seed: int, purpose: str, *columns: str) -> Column:
    """A pseudo-random long in [0, 2**63) that depends on the seed, the purpose and the row's values
    alone.
    """
    key = F.lit(seeds.derive(seed, purpose)).cast("long")
    return F.shiftrightunsigned(F.xxhash64(key, *map(F.col, columns)), 1)


@dataclass(frozen=True)
class Ranks:
    """The sorted order of a column of longs, prepared for look-ups of numbers by rank."""

    numbers: DataFrame  # one column, `number`
    low: int
    width: int  # width of a bucket
    buckets: np.ndarray  # int64, increasing
    ends: np.ndarray  # int64: rows up to the end of each bucket

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, ranks: Sequence[int]) -> list[int]:
        """The numbers at `ranks` (from 0, each below `count`) of the sorted column."""
        if not len(ranks):
            return []
        assert min(ranks) >= 0 and max(ranks) < self.count, (
            f"ranks {min(ranks)}..{max(ranks)} of {self.count} rows"
        )
        inside = np.searchsorted(self.ends, ranks, side="right")  # position of each rank's bucket
        positions = np.unique(inside)
        before = np.concatenate(([0], self.ends))[positions]  # rows before each of those buckets
        bucket = _bucket(self.low, self.width)
        counted = (
            self.numbers.where(bucket.isin(self.buckets[positions].tolist()))
            .groupBy("number")
            .count()
            .toArrow()
        )
        numbers, counts = (counted.column(name).to_numpy() for name in ("number", "count"))
        order = np.argsort(numbers)
        numbers, ends = numbers[order], np.cumsum(counts[order])
        # Rank within the rows that are read: subtract the rows of the buckets left out.
        sizes = self.ends[positions] - before
        kept_before = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        shift = (before - kept_before)[np.searchsorted(positions, inside)]
        return [
            int(number)
            for number in numbers[np.searchsorted(ends, np.asarray(ranks) - shift, side="right")]
        ]


@dataclass(frozen=True)
class Sorted:
    """As Ranks, of a column that the driver holds: int64, ascending."""

    numbers: np.ndarray

    @property
    def count(self) -> int:
        return len(self.numbers)

    def at(self, ranks: Sequence[int]) -> list[int]:
        """The numbers at `ranks` (from 0, each below `count`)."""
        return [int(number) for number in self.numbers[np.asarray(ranks, dtype=np.int64)]]


def ranks(
    rows: DataFrame,
    number: Column,
    low: int | None = None,
    high: int | None = None,
    most: int = HASH_END,
) -> Ranks | Sorted:
    """Prepares the order of `number` (long, never null). `low` and `high`, bounds of all numbers,
    save a pass. most: a bound of the number of rows; the default is none.
    """
    numbers = rows.select(number.cast("long").alias("number"))
    if most <= SHORT:
        return Sorted(np.sort(numbers.toArrow().column("number").to_numpy()))
    if low is None or high is None:
        extremes = numbers.agg(F.min("number"), F.max("number")).collect()[0]
        low, high = (0, 0) if extremes[0] is None else (int(extremes[0]), int(extremes[1]))
    width = (high - low) // BUCKETS + 1
    counted = numbers.groupBy(_bucket(low, width).alias("bucket")).count().toArrow()
    buckets, counts = (counted.column(name).to_numpy() for name in ("bucket", "count"))
    order = np.argsort(buckets)
    return Ranks(numbers, low, width, buckets[order], np.cumsum(counts[order]))


def slot(number: Column, bounds: Sequence[int], first: int = 0) -> Column:
    """The number of increasing `bounds` that are at most `number`, by bisection: an int column."""
    if not bounds:
        return F.lit(first)
    middle = len(bounds) // 2
    below, above = (
        slot(number, bounds[:middle], first),
        slot(number, bounds[middle + 1 :], first + middle + 1),
    )
    return F.when(number < F.lit(bounds[middle]), below).otherwise(above)


def _bucket(low: int, width: int) -> Column:
    return F.expr(f"(number - {low}L) div {width}L")

"""Dense numbers for ids: append-only, from 1, independent of the partitioning.

Ids that have a number keep it. New ids take the next numbers in the order of (xxhash64(id) as an
unsigned number, id). This order does not depend on time, row order or partitioning, and
neighbouring numbers reveal nothing about the ids.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil, log2

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core.errors import DataError

BITS = 10  # of a hash that may choose a bucket; ids are numbered by bucket, in parallel
BUCKET = 100_000  # new ids a bucket, about: so many are numbered by one task, within a second
LAST = 2**31 - 1


def last(numbered: DataFrame, idx_column: str) -> int:
    """The highest number in use; 0 when there is none."""
    return int(numbered.agg(F.max(idx_column)).collect()[0][0] or 0)


def lacking(numbered: DataFrame, ids: DataFrame, id_column: str) -> DataFrame:
    """(id, hash, bucket): the ids, each once, that `numbered` (id, idx) has no number for. `number`
    reads them twice.
    """
    new = (
        ids.select(id_column)
        .where(F.col(id_column).isNotNull())
        .distinct()
        .join(numbered.select(id_column), on=id_column, how="left_anti")
    )
    hashed = F.xxhash64(id_column)
    return new.select(
        id_column,
        hashed.alias("hash"),
        F.shiftrightunsigned(hashed, 64 - BITS).cast("int").alias("bucket"),
    )


def number(new: DataFrame, id_column: str, idx_column: str, taken: int) -> tuple[DataFrame, int]:
    """(rows (id, idx) of the ids that are `lacking`, how many), where `taken` is the `last` number
    in use.

    Raises DataError when the numbers would exceed the range of int32.
    """
    counts = {row["bucket"]: row["count"] for row in new.groupBy("bucket").count().collect()}
    count = sum(counts.values())
    if taken + count > LAST:
        raise DataError(
            f"column {id_column}",
            found=f"{taken + count} different ids",
            expected=f"at most {LAST}",
        )
    bits = min(BITS, ceil(log2(max(count / BUCKET, 1))))  # no more buckets than are worth a task
    sizes = [0] * 2**bits
    for bucket, size in counts.items():
        sizes[bucket >> (BITS - bits)] += size
    before = F.array(*map(F.lit, accumulate(sizes[:-1], initial=taken)))
    group = F.shiftright("bucket", BITS - bits)
    within = F.row_number().over(Window.partitionBy(group).orderBy("bucket", "hash", id_column))
    number = F.element_at(before, group + 1) + within
    return new.select(id_column, number.cast("int").alias(idx_column)), count

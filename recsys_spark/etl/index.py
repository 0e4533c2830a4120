"""Dense numbers for ids: append-only, from 1, the same on any partitioning.

Ids that have a number keep it. New ids take the next numbers in the order of (xxhash64(id) as an unsigned number, id): an order
that no time, no row order and no partitioning changes, and in which neighbouring numbers say nothing of the ids.
"""

from __future__ import annotations

from itertools import accumulate

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core.errors import DataError

BUCKETS = 1024  # ids are numbered bucket by bucket, in parallel: 100 M new ids are 100,000 a bucket
LAST = 2**31 - 1


def extend(known: DataFrame, ids: DataFrame, id_column: str, idx_column: str) -> DataFrame:
    """Rows (id, idx) to append to `known` (id, idx) so that every id of `ids` has a number; empty when all have one.

    Raises DataError when the numbers would leave the range of int32.
    """
    new = ids.select(id_column).where(F.col(id_column).isNotNull()).distinct().join(known.select(id_column), on=id_column, how="left_anti")
    hashed = F.xxhash64(id_column)
    bucketed = new.select(id_column, hashed.alias("hash"), F.shiftrightunsigned(hashed, 54).cast("int").alias("bucket"))
    counts = {row["bucket"]: row["count"] for row in bucketed.groupBy("bucket").count().collect()}
    last = known.agg(F.max(idx_column)).collect()[0][0] or 0
    if last + sum(counts.values()) > LAST:
        raise DataError(f"column {id_column}", found=f"{last + sum(counts.values())} different ids", expected=f"at most {LAST}")
    before = list(accumulate((counts.get(bucket, 0) for bucket in range(BUCKETS)), initial=last))
    offset = F.element_at(F.array(*map(F.lit, before)), F.col("bucket") + 1)
    within = F.row_number().over(Window.partitionBy("bucket").orderBy("hash", id_column))
    return bucketed.select(id_column, (offset + within).cast("int").alias(idx_column))

"""Products of two sparse matrices by blocks of rows, on Spark: each task maps both from their files and multiplies its rows.

A task holds a few million numbers of the product at once, whatever the number of rows and columns (a single row, if it is longer).
The work is that of every row with every row it shares a column with: sum over columns of entries squared. A sum is made in the order of
the shared index, so a product is the same number for number however the rows are dealt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from scipy import sparse

from recsys_spark.baselines import matrix
from recsys_spark.baselines.artifact import Csr
from recsys_spark.baselines.matrix import Mapped

CELLS = 1 << 22  # numbers of the product in a task at once: about 200 MB with what is made of them
CHUNK = 1 << 22  # entries read at once to plan
INDEX_LIMIT = 2**31 - 1  # entries that scipy's 32-bit numbers can count


Parts = list[tuple[int, sparse.csr_array]]  # a matrix by runs of its rows: (the first, they)


@dataclass(frozen=True)
class Product:
    """left (rows, shared) @ right (shared, columns), data float64. Both have row 0 and column 0 empty."""

    left: Csr
    right: Csr
    columns: int

    def work(self) -> NDArray[np.int64]:
        """Multiplications of each row, (rows,)."""
        left = matrix.mapped(self.left)
        return np.concatenate([self._work(left.rows(first, last)) for first, last in left.chunks(CHUNK)])

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, sparse.csr_array]]:
        """The rows first .. last - 1 of the product, float64, some at a time: (their first, they). Columns are in no order."""
        left, right = matrix.mapped(self.left), self._right()
        for outer, end in left.rows(first, last).chunks(CHUNK):
            rows = left.rows(first + outer, first + end)
            cost = np.minimum(self._work(rows), self.columns)
            for start, stop in matrix.runs(np.concatenate([[0], np.cumsum(cost)]), CELLS):
                yield first + outer + start, _times(rows.rows(start, stop), right, self.columns)

    def _right(self) -> Parts:
        right = matrix.mapped(self.right)
        return [(first, _csr(right.rows(first, last), self.columns)) for first, last in right.chunks(INDEX_LIMIT)]

    def _work(self, rows: Mapped) -> NDArray[np.int64]:
        indptr = matrix.mapped(self.right).indptr
        each = indptr[rows.indices + 1] - indptr[rows.indices]
        return np.diff(np.concatenate([[0], np.cumsum(each)])[rows.indptr])


Task = Callable[[int, int], Iterator[pa.RecordBatch]]  # a run of rows (first, behind the last) -> what is made of them


def run(spark: SparkSession, task: Task, shape: str, work: NDArray[np.int64], tasks: int = 0) -> DataFrame:
    """`task` on runs of rows that cost about the same; its batches together, of the Spark type `shape`. 0 tasks: by the cluster."""
    tasks = max(1, min(tasks or 2 * spark.sparkContext.defaultParallelism, len(work)))
    total = np.cumsum(work, dtype=np.float64) + np.arange(1, len(work) + 1)  # a row costs something even when it is empty
    ends = np.searchsorted(total, total[-1] * np.arange(1, tasks) / tasks, side="left") + 1
    bounds = [0, *(int(end) for end in ends), len(work)]

    def of_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from task(bounds[number], bounds[number + 1])

    return spark.range(0, tasks, 1, tasks).mapInArrow(of_partition, shape)


def _times(rows: Mapped, right: Parts, columns: int) -> sparse.csr_array:
    left = _csr(rows, right[-1][0] + right[-1][1].shape[0])
    made = [left[:, start : start + part.shape[0]] @ part for start, part in right] if len(right) > 1 else [left @ right[0][1]]
    return sum(made[1:], start=made[0])


def _csr(rows: Mapped, columns: int) -> sparse.csr_array:
    return sparse.csr_array((rows.data, rows.indices, rows.indptr.astype(np.int32)), shape=(len(rows.indptr) - 1, columns))

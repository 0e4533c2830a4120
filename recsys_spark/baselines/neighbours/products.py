"""Products of two sparse matrices by blocks of rows, on Spark: each task maps both from their files
and multiplies its rows.

A task holds a few million numbers of the product at a time, for any number of rows and columns (or
a single row, if it is longer). Every row is multiplied with every row that shares a column with it:
the work is the sum over columns of squared entry counts. Sums are in the order of the shared index,
so the product does not depend on how rows are divided among tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from scipy import sparse

from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import Mapped

CELLS = 1 << 22  # numbers of the product in a task at a time: about 200 MB with derived arrays
CHUNK = 1 << 22  # entries read at a time for planning
INDEX_LIMIT = 2**31 - 1  # entries that scipy's 32-bit indices can address


Parts = list[tuple[int, sparse.csr_array]]  # a matrix as runs of rows: (first row, rows)


@dataclass(frozen=True)
class Product:
    """left (rows, shared) @ right (shared, columns), data float64. Both have row 0 and column 0
    empty.
    """

    left: Csr
    right: Csr
    columns: int

    def work(self) -> NDArray[np.int64]:
        """Multiplications of each row, (rows,)."""
        left = matrix.mapped(self.left)
        return np.concatenate(
            [self._work(left.rows(first, last)) for first, last in left.chunks(CHUNK)]
        )

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, sparse.csr_array]]:
        """The rows first .. last - 1 of the product, float64, in blocks (first row, rows). Columns
        are unordered.
        """
        left, right = matrix.mapped(self.left), self._right()
        for outer, end in left.rows(first, last).chunks(CHUNK):
            rows = left.rows(first + outer, first + end)
            cost = np.minimum(self._work(rows), self.columns)
            for start, stop in matrix.runs(np.concatenate([[0], np.cumsum(cost)]), CELLS):
                yield first + outer + start, _times(rows.rows(start, stop), right, self.columns)

    def _right(self) -> Parts:
        right = matrix.mapped(self.right)
        return [
            (first, _csr(right.rows(first, last), self.columns))
            for first, last in right.chunks(INDEX_LIMIT)
        ]

    def _work(self, rows: Mapped) -> NDArray[np.int64]:
        indptr = matrix.mapped(self.right).indptr
        costs = indptr[rows.indices + 1] - indptr[rows.indices]
        return np.diff(np.concatenate([[0], np.cumsum(costs)])[rows.indptr])


# A run of rows (first, last + 1) -> batches of results
Task = Callable[[int, int], Iterator[pa.RecordBatch]]


def run(
    spark: SparkSession, task: Task, shape: str, work: NDArray[np.int64], tasks: int = 0
) -> DataFrame:
    """Applies `task` to runs of rows of about equal cost; the batches of all runs, with the Spark
    type `shape`. tasks 0: chosen by the size of the cluster.
    """
    tasks = max(1, min(tasks or 2 * spark.sparkContext.defaultParallelism, len(work)))
    # An empty row has a cost too
    total = np.cumsum(work, dtype=np.float64) + np.arange(1, len(work) + 1)
    ends = np.searchsorted(total, total[-1] * np.arange(1, tasks) / tasks, side="left") + 1
    bounds = [0, *(int(end) for end in ends), len(work)]

    def of_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from task(bounds[number], bounds[number + 1])

    return spark.range(0, tasks, 1, tasks).mapInArrow(of_partition, shape)


def _times(rows: Mapped, right: Parts, columns: int) -> sparse.csr_array:
    left = _csr(rows, right[-1][0] + right[-1][1].shape[0])
    parts = (
        [left[:, start : start + part.shape[0]] @ part for start, part in right]
        if len(right) > 1
        else [left @ right[0][1]]
    )
    return sum(parts[1:], start=parts[0])


def _csr(rows: Mapped, columns: int) -> sparse.csr_array:
    return sparse.csr_array(
        (rows.data, rows.indices, rows.indptr.astype(np.int32)),
        shape=(len(rows.indptr) - 1, columns),
    )

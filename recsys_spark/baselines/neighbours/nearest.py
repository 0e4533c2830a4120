"""The nearest rows of every row of a matrix, by blocked products on Spark (products.py). Only the
nearest rows of a row are kept.

Of equally near rows the lower number is kept, so the result does not depend on blocks or tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting.artifact import ROWS, WEIGHTS, Csr
from recsys_spark.baselines.neighbours import products, similarity, weighting
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW
from recsys_spark.baselines.neighbours.similarity import Similarity
from recsys_spark.baselines.neighbours.weighting import Weighted


def of(
    files: Csr, turned: Csr, config: Similarity, spark: SparkSession
) -> tuple[DataFrame, NDArray[np.int64]]:
    """(nearest rows as returned by `rows`, multiplications per row) of a matrix on disk, weighted.
    turned: its transpose on disk.
    """
    weighted = weighting.weighted(files, turned, config)
    work = weighted.product.work()
    return rows(spark, weighted, config, work), work


def rows(
    spark: SparkSession,
    weighted: Weighted,
    config: Similarity,
    work: NDArray[np.int64],
    tasks: int = 0,
) -> DataFrame:
    """(row int, rows array<int>, weights array<float>): at most `neighbours` other rows of each
    row, ordered by row number, with similarity above 0.
    """

    task = partial(_lists, weighted, config)
    return products.run(
        spark, task, f"{ROW} int, {ROWS} array<int>, {WEIGHTS} array<float>", work, tasks
    )


def _lists(
    weighted: Weighted, config: Similarity, first: int, last: int
) -> Iterator[pa.RecordBatch]:
    norms = np.load(weighted.norms, mmap_mode="r")
    for start, block in weighted.product.blocks(first, last):
        own = np.repeat(norms[start : start + block.shape[0]], np.diff(block.indptr))
        block.data = similarity.of_products(config, block.data, own, norms[block.indices])
        yield _best(start, block.indptr, block.indices, block.data, config.neighbours)


def entries(neighbours: DataFrame, *, turned: bool) -> DataFrame:
    """Lists from `rows` as entries (row, column, entry) of a matrix: neighbours are the columns, or
    with `turned` the rows.
    """
    pairs = neighbours.select(ROW, F.explode(F.arrays_zip(ROWS, WEIGHTS)).alias("pair"))
    names = (COLUMN, ROW) if turned else (ROW, COLUMN)
    other, weight = (F.col("pair").getField(name) for name in (ROWS, WEIGHTS))
    return pairs.select(F.col(ROW).alias(names[0]), other.alias(names[1]), weight.alias(ENTRY))


def _best(
    first: int,
    indptr: NDArray[np.int32],
    columns: NDArray[np.int32],
    values: NDArray[np.float64],
    most: int,
) -> pa.RecordBatch:
    """One list per non-empty row: its `most` largest values above 0, without its own column."""
    kept = []
    for row in range(len(indptr) - 1):
        place = np.arange(indptr[row], indptr[row + 1])
        place = place[(values[place] > 0) & (columns[place] != first + row)]
        if len(place) > most:
            least = np.partition(values[place], len(place) - most)[len(place) - most]
            above, equal = place[values[place] > least], place[values[place] == least]
            place = np.concatenate([above, equal[np.argsort(columns[equal])[: most - len(above)]]])
        kept.append(place[np.argsort(columns[place])])
    lengths = np.array([len(place) for place in kept], dtype=np.int32)
    non_empty = np.flatnonzero(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int32)
    place = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
    lists = (
        pa.ListArray.from_arrays(offsets, pa.array(array[place]))
        for array in (columns, values.astype(np.float32))
    )
    return pa.RecordBatch.from_arrays(
        [pa.array((first + non_empty).astype(np.int32)), *lists], names=[ROW, ROWS, WEIGHTS]
    )

"""One half step of alternating least squares as one Spark job: every row of one side, given the vectors of the other.

A task solves one block and writes its vectors and its share of the Gram matrix, files that are whole or absent; the driver adds the
shares in the order of the blocks. So a task that is killed, repeated or run twice changes nothing, and as many blocks
give the same digits wherever they are solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import normal_equations
from recsys_spark.baselines.csr_blocks import Side
from recsys_spark.baselines.factors import Factors, normal, save
from recsys_spark.baselines.normal_equations import Solved
from recsys_spark.core.contracts import NormalEquations
from recsys_spark.core.errors import RecsysError

BATCH = 4096  # vectors of an Arrow batch
ENTRIES_PER_FILE = 64  # so many vectors are taken at once that a look at every file of the other side is cheap beside their products

_MADE = "block int, fit double, penalty double, singular bigint"
_MADE_SCHEMA = pa.schema([("block", pa.int32()), ("fit", pa.float64()), ("penalty", pa.float64()), ("singular", pa.int64())])


@dataclass(frozen=True)
class Half:
    """One side as a half step left it."""

    factors: Factors
    penalty: float  # its ridges' part of the objective
    fit: float  # the part that both sides share


def begin(spark: SparkSession, own: Side, equations: NormalEquations, folder: Path, *, dim: int, seed: int, scale: float) -> Half:
    """Normal vectors of standard deviation `scale`, zero for rows without entries. `fit` is not known yet: NaN."""
    return _run(spark, own, partial(_drawn, own, equations, dim, seed, scale), Factors(str(folder), own.bounds, dim))


def solve(spark: SparkSession, own: Side, other: Factors, equations: NormalEquations, folder: Path) -> Half:
    """Raises RecsysError when a row's equations have no single solution."""
    return _run(spark, own, partial(_solved, own, other, equations), Factors(str(folder), own.bounds, other.dim))


def vectors(spark: SparkSession, own: Side, factors: Factors, *, row: str, vector: str) -> DataFrame:
    """(row int, vector array<float>) of the rows that have entries, read by the executors."""
    return _each(spark, own).mapInArrow(partial(_listed, own, factors, row, vector), f"{row} int, {vector} array<float>")


def _each(spark: SparkSession, own: Side) -> DataFrame:
    """A task for each block."""
    return spark.range(0, own.blocks, 1, own.blocks)


def _run(spark: SparkSession, own: Side, task: Callable[[int], Solved], made: Factors) -> Half:
    Path(made.folder).mkdir(parents=True)
    rows = _each(spark, own).mapInArrow(partial(_write, task, made), _MADE).collect()
    for row in sorted(rows):
        if row.singular >= 0:
            raise RecsysError(f"normal equations of row {row.singular + own.bounds[row.block]} in {made.folder}",
                              found="a matrix that is not positive definite", expected="a single solution", remedy="set a larger `reg`")
    made.add_grams()
    return Half(made, penalty=math.fsum(row.penalty for row in rows), fit=math.fsum(row.fit for row in rows))


def _write(task: Callable[[int], Solved], made: Factors, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            found = task(number)
            save(made.path(number), found.vectors)
            save(made.gram_path(number), normal_equations.gram_of(found.vectors))
            yield pa.RecordBatch.from_arrays([pa.array([value]) for value in (number, found.fit, found.penalty, found.singular)],
                                             schema=_MADE_SCHEMA)


def _drawn(own: Side, equations: NormalEquations, dim: int, seed: int, scale: float, number: int) -> Solved:
    entries = np.diff(own.block(number)[0])
    made = normal(own.bounds[number], len(entries), dim, seed=seed, scale=scale)
    made[entries == 0] = 0.0
    ridges = normal_equations.ridge(equations, entries)
    return Solved(made, fit=math.nan, penalty=float(ridges @ np.square(made, dtype=np.float64).sum(axis=1)))


def _solved(own: Side, other: Factors, equations: NormalEquations, number: int) -> Solved:
    run = max(normal_equations.RUN, ENTRIES_PER_FILE * (len(other.bounds) - 1))
    return normal_equations.solve(*own.block(number), other.reader(), other.gram(), equations, run)


def _listed(own: Side, factors: Factors, row: str, vector: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            there = np.flatnonzero(np.diff(own.block(number)[0]))
            held = factors.block(number)
            for start in range(0, len(there), BATCH):
                some = there[start : start + BATCH]
                offsets = np.arange(len(some) + 1, dtype=np.int32) * factors.dim
                lists = pa.ListArray.from_arrays(offsets, held[some].ravel())
                yield pa.RecordBatch.from_arrays([pa.array((some + own.bounds[number]).astype(np.int32)), lists], names=[row, vector])

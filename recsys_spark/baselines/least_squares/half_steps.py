"""One half step of alternating least squares as one Spark job: every row of one side, given the
vectors of the other.

A task solves one block and writes its vectors and its share of the Gram matrix, as files that are
complete or absent; the driver adds the shares in the order of the blocks. So a task that is killed,
repeated or run twice does no harm, and equal blocks give identical results on any cluster.
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

from recsys_spark.baselines.least_squares import normal_equations
from recsys_spark.baselines.least_squares.csr_blocks import Side
from recsys_spark.baselines.least_squares.factors import Factors, normal, save
from recsys_spark.baselines.least_squares.normal_equations import Solved
from recsys_spark.core.contracts import NormalEquations
from recsys_spark.core.errors import RecsysError

BATCH = 4096  # vectors per Arrow batch
# vectors read at a time: enough that opening every file of the other side is cheap compared with
# the products
ENTRIES_PER_FILE = 64

_MADE = "block int, fit double, penalty double, singular bigint"
_MADE_SCHEMA = pa.schema(
    [
        ("block", pa.int32()),
        ("fit", pa.float64()),
        ("penalty", pa.float64()),
        ("singular", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Half:
    """One side after a half step."""

    factors: Factors
    penalty: float  # the ridge term of this side in the objective
    fit: float  # the part of the objective shared by both sides


def begin(
    spark: SparkSession,
    own: Side,
    equations: NormalEquations,
    folder: Path,
    *,
    dim: int,
    seed: int,
    scale: float,
) -> Half:
    """Draws normal vectors with standard deviation `scale`, zero for rows without entries. `fit` is
    NaN, not yet known.
    """
    return _run(
        spark,
        own,
        partial(_drawn, own, equations, dim, seed, scale),
        Factors(str(folder), own.bounds, dim),
    )


def solve(
    spark: SparkSession, own: Side, other: Factors, equations: NormalEquations, folder: Path
) -> Half:
    """Solves all rows of one side. Raises RecsysError when a row's equations have no unique
    solution.
    """
    return _run(
        spark,
        own,
        partial(_solved, own, other, equations),
        Factors(str(folder), own.bounds, other.dim),
    )


def vectors(
    spark: SparkSession, own: Side, factors: Factors, *, row: str, vector: str
) -> DataFrame:
    """(row int, vector array<float>) of the rows that have entries, read by the executors."""
    return _each(spark, own).mapInArrow(
        partial(_listed, own, factors, row, vector), f"{row} int, {vector} array<float>"
    )


def _each(spark: SparkSession, own: Side) -> DataFrame:
    """A DataFrame with one task per block."""
    return spark.range(0, own.blocks, 1, own.blocks)


def _run(spark: SparkSession, own: Side, task: Callable[[int], Solved], factors: Factors) -> Half:
    Path(factors.folder).mkdir(parents=True)
    rows = _each(spark, own).mapInArrow(partial(_write, task, factors), _MADE).collect()
    for row in sorted(rows):
        if row.singular >= 0:
            raise RecsysError(
                f"normal equations of row {row.singular + own.bounds[row.block]} "
                f"in {factors.folder}",
                found="a matrix that is not positive definite",
                expected="a single solution",
                remedy="set a larger `reg`",
            )
    factors.add_grams()
    return Half(
        factors,
        penalty=math.fsum(row.penalty for row in rows),
        fit=math.fsum(row.fit for row in rows),
    )


def _write(
    task: Callable[[int], Solved], factors: Factors, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            solved = task(number)
            save(factors.path(number), solved.vectors)
            save(factors.gram_path(number), normal_equations.gram_of(solved.vectors))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([value])
                    for value in (number, solved.fit, solved.penalty, solved.singular)
                ],
                schema=_MADE_SCHEMA,
            )


def _drawn(
    own: Side, equations: NormalEquations, dim: int, seed: int, scale: float, number: int
) -> Solved:
    entries = np.diff(own.block(number)[0])
    drawn = normal(own.bounds[number], len(entries), dim, seed=seed, scale=scale)
    drawn[entries == 0] = 0.0
    ridges = normal_equations.ridge(equations, entries)
    return Solved(
        drawn, fit=math.nan, penalty=float(ridges @ np.square(drawn, dtype=np.float64).sum(axis=1))
    )


def _solved(own: Side, other: Factors, equations: NormalEquations, number: int) -> Solved:
    run = max(normal_equations.RUN, ENTRIES_PER_FILE * (len(other.bounds) - 1))
    return normal_equations.solve(*own.block(number), other.reader(), other.gram(), equations, run)


def _listed(
    own: Side, factors: Factors, row: str, vector: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            active = np.flatnonzero(np.diff(own.block(number)[0]))
            held = factors.block(number)
            for start in range(0, len(active), BATCH):
                some = active[start : start + BATCH]
                offsets = np.arange(len(some) + 1, dtype=np.int32) * factors.dim
                lists = pa.ListArray.from_arrays(offsets, held[some].ravel())
                yield pa.RecordBatch.from_arrays(
                    [pa.array((some + own.bounds[number]).astype(np.int32)), lists],
                    names=[row, vector],
                )

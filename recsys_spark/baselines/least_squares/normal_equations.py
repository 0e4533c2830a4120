"""Least squares of one side of a matrix factorization, given the vectors of the other side: every
row is solved exactly, by Cholesky factorization.

A row with n entries has the vector x that minimises (contracts.NormalEquations)

    unobserved * sum over all v of (x.v)^2
    + sum over its own v of [observed * (x.v)^2 - 2 * pull * x.v + pull]
    + ridge * |x|^2,

ridge = reg * (n + offset)^exponent: it solves (unobserved * gram + observed * sum v v' + ridge * 1)
x = pull * sum v. Work per row: n * D^2 for the sum of v v' (one triangle of the symmetric product)
and D^3 / 3 for the factorization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from recsys_spark.core.contracts import NormalEquations

# entries gathered at a time: with 64 factors 1 MB, which stays in the cache until it is multiplied
RUN = 4096


@dataclass(frozen=True)
class Solved:
    """vectors (R, D) float32, zero for a row without entries. `fit` + `penalty` is the part of the
    objective that belongs to these rows.
    """

    vectors: NDArray[np.float32]
    fit: float  # the objective without the ridge
    penalty: float
    singular: int = -1  # the first row whose equations have no unique solution; -1: none


def solve(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    take: Callable[[NDArray[np.int32]], NDArray[np.float32]],
    gram: NDArray[np.float64],
    equations: NormalEquations,
    run: int = RUN,
) -> Solved:
    """indptr (R + 1,), indices (entries,): CSR of R rows. take(indices (n,)) -> (n, D): vectors of
    the other side, whose v v' sum to gram.

    A row's vector depends bit for bit on that row alone. Holds `run` vectors and one D x D matrix
    in addition to the result.
    """
    dim = len(gram)
    vectors = np.zeros((len(indptr) - 1, dim), dtype=np.float32)
    common = np.asfortranarray(equations.unobserved * gram, dtype=np.float32)
    matrix, diagonal = np.empty_like(common, order="F"), np.arange(dim)
    ridges = ridge(equations, np.diff(indptr))
    objective = penalty = 0.0
    for first, last in _runs(indptr, run):
        start = indptr[first]
        near = take(indices[start : min(indptr[last], start + run)])
        for row in range(first, last):
            begin, end = indptr[row], indptr[row + 1]
            if begin == end:
                continue
            own = near[begin - start : end - start]
            matrix[:] = common
            total = _add(matrix, own, equations.observed)
            for further in range(start + run, end, run):  # for a row longer than a run
                total += _add(
                    matrix, take(indices[further : min(further + run, end)]), equations.observed
                )
            matrix[diagonal, diagonal] += np.float32(ridges[row])
            _, solution, singular = lapack.sposv(
                matrix, equations.pull * total, lower=1, overwrite_a=1, overwrite_b=0
            )
            if singular:
                return Solved(vectors, objective - penalty, penalty, row)
            vectors[row] = solution
            # The minimum of the row's objective
            objective += equations.pull * (float(end - begin) - float(total @ solution))
            penalty += float(ridges[row]) * float(solution @ solution)
    return Solved(vectors, objective - penalty, penalty)


def ridge(equations: NormalEquations, entries: NDArray[np.int64]) -> NDArray[np.float64]:
    """The ridge of rows with these numbers of entries."""
    return np.asarray(equations.reg * (entries + equations.offset) ** equations.exponent)


def gram_of(vectors: NDArray[np.float32], block: int = 4096) -> NDArray[np.float64]:
    """Sum of v v' over rows, (D, D), in float64: a float32 sum over millions of rows would lose
    precision.
    """
    total = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), block):
        some = vectors[start : start + block].astype(np.float64)
        total += some.T @ some
    return total


def _add(
    matrix: NDArray[np.float32], own: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Adds the lower triangle of weight * own' own to `matrix`, in place. Returns the sum of own,
    (D,).
    """
    blas.ssyrk(weight, own.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
    return own.sum(axis=0)


def _runs(indptr: NDArray[np.int64], entries: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive rows with at most `entries` entries together, or of a single
    longer row.
    """
    first, rows = 0, len(indptr) - 1
    while first < rows:
        last = int(np.searchsorted(indptr, indptr[first] + entries, side="right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last

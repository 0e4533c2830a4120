"""Least squares of one side of a matrix factorization, given the vectors of the other: every row exactly, by Cholesky.

A row with n entries has the vector x that minimises (contracts.NormalEquations)

    unobserved * sum over all v of (x.v)^2  +  sum over its own v of [observed * (x.v)^2 - 2 * pull * x.v + pull]  +  ridge * |x|^2,

ridge = reg * (n + offset)^exponent: it solves (unobserved * gram + observed * sum v v' + ridge * 1) x = pull * sum v.
Work a row: n * D^2 for the sum of v v' (half of a product, the other half being its mirror image) and D^3 / 3 for the factorization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from recsys_spark.core.contracts import NormalEquations

RUN = 4096  # entries gathered at once: with 64 factors 1 MB, which stays in the cache until it is multiplied


@dataclass(frozen=True)
class Solved:
    """vectors (R, D) float32, zero for a row without entries. `fit` + `penalty` is the part of the objective that belongs to these rows."""

    vectors: NDArray[np.float32]
    fit: float  # all but the ridge
    penalty: float
    singular: int = -1  # the first row whose equations have no single solution; -1: none


def solve(indptr: NDArray[np.int64], indices: NDArray[np.int32], take: Callable[[NDArray[np.int32]], NDArray[np.float32]],
          gram: NDArray[np.float64], equations: NormalEquations, run: int = RUN) -> Solved:
    """indptr (R + 1,), indices (entries,): CSR of R rows. take(indices (n,)) -> (n, D): vectors of the other side, whose v v' sum to gram.

    A row's vector depends on that row alone, to the last digit. Holds `run` vectors and one D x D matrix beside the result.
    """
    dim = len(gram)
    vectors = np.zeros((len(indptr) - 1, dim), dtype=np.float32)
    common = np.asfortranarray(equations.unobserved * gram, dtype=np.float32)
    matrix, diagonal = np.empty_like(common, order="F"), np.arange(dim)
    ridges = ridge(equations, np.diff(indptr))
    both = penalty = 0.0
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
            for further in range(start + run, end, run):  # of a row longer than a run
                total += _add(matrix, take(indices[further : min(further + run, end)]), equations.observed)
            matrix[diagonal, diagonal] += np.float32(ridges[row])
            _, found, singular = lapack.sposv(matrix, equations.pull * total, lower=1, overwrite_a=1, overwrite_b=0)
            if singular:
                return Solved(vectors, both - penalty, penalty, row)
            vectors[row] = found
            both += equations.pull * (float(end - begin) - float(total @ found))  # the least value of the row's objective
            penalty += float(ridges[row]) * float(found @ found)
    return Solved(vectors, both - penalty, penalty)


def ridge(equations: NormalEquations, entries: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of rows with so many entries."""
    return np.asarray(equations.reg * (entries + equations.offset) ** equations.exponent)


def gram_of(vectors: NDArray[np.float32], block: int = 4096) -> NDArray[np.float64]:
    """Sum of v v' over rows, (D, D), in float64: a sum over millions of rows would lose digits in float32."""
    total = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), block):
        some = vectors[start : start + block].astype(np.float64)
        total += some.T @ some
    return total


def _add(matrix: NDArray[np.float32], own: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """The lower triangle of weight * own' own is added to `matrix`, in place; the sum of own is returned, (D,)."""
    blas.ssyrk(weight, own.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
    return own.sum(axis=0)


def _runs(indptr: NDArray[np.int64], entries: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive rows with at most so many entries together, or of a single longer one."""
    first, rows = 0, len(indptr) - 1
    while first < rows:
        last = int(np.searchsorted(indptr, indptr[first] + entries, side="right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last

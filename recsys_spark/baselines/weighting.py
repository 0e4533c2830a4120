"""A matrix on disk with its entries weighted (similarity.py), beside itself turned: what products of its rows are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_spark.baselines import matrix, products, similarity
from recsys_spark.baselines.artifact import Csr
from recsys_spark.baselines.matrix import Mapped
from recsys_spark.baselines.products import Product
from recsys_spark.baselines.similarity import Similarity


@dataclass(frozen=True)
class Weighted:
    """A matrix with weighted entries times itself turned, and the squared norms of its rows (rows,)."""

    product: Product
    norms: Path  # .npy float64


def weighted(files: Csr, turned: Csr, config: Similarity) -> Weighted:
    """Writes the weighted entries of a matrix and of the same one turned, float64, beside theirs; 5 arrays of rows or columns are held."""
    plain, other = matrix.mapped(files), matrix.mapped(turned)
    found_in, rows = other.lengths, int((plain.lengths > 0).sum())
    lengths = _row_sums(plain)
    facts = lengths / (lengths.sum() / max(1, rows) or 1.0), similarity.inverse_frequency(rows, found_in)
    left, norms = _weigh(files, plain, config, *facts, turned=False)
    right, _ = _weigh(turned, other, config, *facts, turned=True)
    made = Weighted(Product(left, right, len(norms)), left.data.with_name(f"norms-{left.data.name}"))
    np.save(made.norms, norms)
    return made


def _row_sums(plain: Mapped) -> NDArray[np.float64]:
    sums = []
    for first, last in plain.chunks(products.CHUNK):
        some = plain.rows(first, last)
        sums.append(np.bincount(_numbers(some), weights=some.data, minlength=last - first))
    return np.concatenate(sums)


def _weigh(files: Csr, plain: Mapped, config: Similarity, length: NDArray[np.float64], frequency: NDArray[np.float64], *,
           turned: bool) -> tuple[Csr, NDArray[np.float64]]:
    """The files with weighted entries, and each row's sum of squares. turned: the rows are columns of the matrix that is weighted."""
    made = files._replace(data=files.data.with_name(f"weighted-{files.data.name}"))
    squares = []
    with matrix.npy(made.data, "<f8", len(plain.data)) as out:
        for first, last in plain.chunks(products.CHUNK):
            some = plain.rows(first, last)
            row = _numbers(some) + first
            document, word = (some.indices, row) if turned else (row, some.indices)
            values = similarity.weights(config, some.data.astype(np.float64), length[document], frequency[word])
            out.write(values.astype("<f8").tobytes())
            squares.append(np.bincount(row - first, weights=values * values, minlength=last - first))
    return made, np.concatenate(squares)


def _numbers(some: Mapped) -> NDArray[np.int64]:
    """The row of each entry."""
    return np.repeat(np.arange(len(some.indptr) - 1), some.lengths)

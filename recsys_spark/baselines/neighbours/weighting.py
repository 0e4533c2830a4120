"""A matrix on disk with weighted entries (similarity.py) and its transpose, the factors of products
of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.neighbours import matrix, products, similarity
from recsys_spark.baselines.neighbours.matrix import Mapped
from recsys_spark.baselines.neighbours.products import Product
from recsys_spark.baselines.neighbours.similarity import Similarity


@dataclass(frozen=True)
class Weighted:
    """The product of a matrix with weighted entries and its transpose, and the squared norms
    (rows,) of its rows.
    """

    product: Product
    norms: Path  # .npy float64


def weighted(files: Csr, turned: Csr, config: Similarity) -> Weighted:
    """Writes the weighted entries, float64, of a matrix and its transpose `turned`, next to their
    files. Holds 5 arrays of rows or columns.
    """
    plain, other = matrix.mapped(files), matrix.mapped(turned)
    found_in, rows = other.lengths, int((plain.lengths > 0).sum())
    lengths = _row_sums(plain)
    facts = (
        lengths / (lengths.sum() / max(1, rows) or 1.0),
        similarity.inverse_frequency(rows, found_in),
    )
    left, norms = _weigh(files, plain, config, *facts, turned=False)
    right, _ = _weigh(turned, other, config, *facts, turned=True)
    result = Weighted(
        Product(left, right, len(norms)), left.data.with_name(f"norms-{left.data.name}")
    )
    np.save(result.norms, norms)
    return result


def _row_sums(plain: Mapped) -> NDArray[np.float64]:
    sums = []
    for first, last in plain.chunks(products.CHUNK):
        some = plain.rows(first, last)
        sums.append(np.bincount(_numbers(some), weights=some.data, minlength=last - first))
    return np.concatenate(sums)


def _weigh(
    files: Csr,
    plain: Mapped,
    config: Similarity,
    length: NDArray[np.float64],
    frequency: NDArray[np.float64],
    *,
    turned: bool,
) -> tuple[Csr, NDArray[np.float64]]:
    """(files with weighted entries, sum of squares of each row). turned: `files` are those of the
    transpose.
    """
    weighted_files = files._replace(data=files.data.with_name(f"weighted-{files.data.name}"))
    squares = []
    with matrix.npy(weighted_files.data, "<f8", len(plain.data)) as out:
        for first, last in plain.chunks(products.CHUNK):
            some = plain.rows(first, last)
            row = _numbers(some) + first
            document, word = (some.indices, row) if turned else (row, some.indices)
            values = similarity.weights(
                config, some.data.astype(np.float64), length[document], frequency[word]
            )
            out.write(values.astype("<f8").tobytes())
            squares.append(
                np.bincount(row - first, weights=values * values, minlength=last - first)
            )
    return weighted_files, np.concatenate(squares)


def _numbers(some: Mapped) -> NDArray[np.int64]:
    """The row of each entry."""
    return np.repeat(np.arange(len(some.indptr) - 1), some.lengths)

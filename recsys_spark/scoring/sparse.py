"""Top k where a query is a few weighted rows of one matrix: neighbours and what they have, or a history and what goes with each item.

The matrix is mapped from its files, so that the workers of a host share it; what is made of it is bounded by blocks of queries, whatever
the number of rows and items. A product that fills little of the catalogue is never spread over all of it: the items that a query reaches
are ranked alone, and only where fewer than k of them score above 0 do the others (whose score is 0) take part. The answer is
that of `top_k` over all scores. A score is added up in float32 in the order of the rows, so it depends on its own query alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from recsys_spark.core.errors import CheckpointError
from recsys_spark.models.batches import Ragged
from recsys_spark.scoring.topk import TopK, select, top_k, top_k_of

_CELLS = 1 << 23  # scores, or entries of a product, held at once: 32 to 100 MB
_WHOLE = 2**31 - 1  # a matrix of more entries (what scipy's 32-bit numbers can hold) is read by the rows that a block of queries needs
_DENSE = 8192  # a catalogue up to this size is ranked whole: that is cheaper than setting the reached items apart


class Csr(NamedTuple):
    """Row r holds columns indices[indptr[r] : indptr[r + 1]] with the values `data` beside them. Mapped files, or parts of them."""

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]
    data: NDArray[np.float32]


class SparseIndex:
    """score(query, i) = sum over the query's pairs (row, weight) of weight * matrix[row, i]; row 0 and column 0 are padding."""

    def __init__(self, matrix: Csr | NDArray[np.float32], num_items: int, model: str) -> None:
        """matrix: rows 0..num_rows, columns 0..num_items; CSR or dense. Raises CheckpointError for a column that does not exist."""
        self.model, self.num_columns = model, num_items + 1
        self.dense = None if isinstance(matrix, Csr) else matrix
        self.csr = matrix if isinstance(matrix, Csr) else None
        self.filled = np.diff(matrix.indptr) > 0 if isinstance(matrix, Csr) else _any(matrix)  # (num_rows + 1,)
        self.filled[0] = False
        self.whole = self._checked(*matrix) if isinstance(matrix, Csr) and len(matrix.indices) <= _WHOLE else None

    @cached_property
    def ones(self) -> sparse.csr_array:
        """The whole matrix with 1 in place of every entry; made for a model that predicts ratings alone."""
        assert self.whole is not None
        return _present(self.whole)

    def reaches(self, lists: Ragged) -> Tensor:
        """bool (B,): whether any of the list's rows holds anything."""
        there = np.concatenate([[0], np.cumsum(self._known(lists.values.numpy()))])
        return torch.from_numpy(np.diff(there[lists.offsets.numpy()]) > 0)

    def pairs(self, lists: Ragged, weights: NDArray[np.float32] | None = None) -> sparse.csr_array:
        """(B, num_rows + 1), the rows of each query in order. Without weights a row counts once however often it is listed."""
        rows = lists.values.numpy()
        known = self._known(rows)
        offsets = np.concatenate([[0], np.cumsum(known)])[lists.offsets.numpy()].astype(np.int32)  # as the matrix: else scipy copies it
        values = np.ones(int(offsets[-1]), dtype=np.float32) if weights is None else weights[known].astype(np.float32)
        made = sparse.csr_array((values, rows[known], offsets), shape=(len(offsets) - 1, len(self.filled)))
        made.sum_duplicates()
        if weights is None:
            made.data[:] = 1.0
        return made

    def scores(self, pairs: sparse.csr_array) -> Tensor:
        """All scores of a few queries, float32 (B, I + 1)."""
        made = pairs @ self.dense if self.dense is not None else self._product(pairs).toarray()
        return torch.from_numpy(made)

    def means(self, pairs: sparse.csr_array, query: NDArray[np.int64], items: NDArray[np.int64], dampen: float) -> NDArray[np.float64]:
        """(R,): for row r the mean of column items[r] over the pairs of query[r] that have an entry there, weighted by the pairs, with
        `dampen` more weight of 0. 0 where nothing has an entry. `query` does not fall."""
        found = np.zeros(len(query))
        for block in self._blocks(pairs):
            first, last = np.searchsorted(query, [int(block[0]), int(block[-1]) + 1])
            own, at = pairs[block.numpy()], (query[first:last] - int(block[0]), items[first:last])
            total, weight = (_entries(self._product(own, present), *at) for present in (False, True))
            found[first:last] = np.divide(total, weight + dampen, out=np.zeros_like(total), where=weight > 0)
        return found

    def top_k(self, pairs: sparse.csr_array, query: Tensor, seen: Ragged, k: int, seed: int) -> TopK:
        """query (B,) names the queries in the tie rule; seen: item indices to be left out."""
        best = TopK(torch.zeros(len(query), k, dtype=torch.int32), torch.zeros(len(query), k))
        for block in self._blocks(pairs):
            if self.dense is not None:
                best.items[block], best.scores[block] = top_k(self.scores(pairs[block.numpy()]), query[block], select(seen, block), k, seed,
                                                              self.model)
                continue
            product = self._product(pairs[block.numpy()])
            left = block
            if self.num_columns > _DENSE and 4 * product.nnz < product.shape[0] * self.num_columns:
                left = self._reached(product, block, best, query, seen, k, seed)
            for some in left.split(max(1, _CELLS // self.num_columns)):
                scores = torch.from_numpy(product[(some - block[0]).numpy()].toarray())
                best.items[some], best.scores[some] = top_k(scores, query[some], select(seen, some), k, seed, self.model)
        return best

    def _reached(self, product: sparse.csr_array, block: Tensor, best: TopK, query: Tensor, seen: Ragged, k: int, seed: int) -> Tensor:
        """Ranks the items that each query of the block reaches. Returns the queries for which that may not be enough."""
        lengths = np.diff(product.indptr)
        keys = _keys(np.repeat(np.arange(len(block)), lengths), product.indices, self.num_columns)
        lists = select(seen, block)
        hidden = np.sort(_keys(np.repeat(np.arange(len(block)), lists.offsets.diff().numpy()), lists.values.numpy(), self.num_columns))
        if len(hidden):
            product.data[hidden[np.minimum(np.searchsorted(hidden, keys), len(hidden) - 1)] == keys] = -np.inf
        product.data[product.indices == 0] = -np.inf
        order = np.argsort(lengths, kind="stable")
        for part in _parts(np.maximum(lengths[order], 1), _CELLS, padded=True):
            rows = order[part]
            there = np.arange(max(1, lengths[rows].max())) < lengths[rows, None]  # (b, C)
            some = product[rows]
            scores, items = np.full(there.shape, -np.inf, dtype=np.float32), np.zeros(there.shape, dtype=np.int64)
            scores[there], items[there] = some.data, some.indices
            at = block[torch.from_numpy(rows)]
            best.items[at], best.scores[at] = top_k_of(torch.from_numpy(scores), torch.from_numpy(items), query[at], k, seed, self.model)
        return block[~(best.scores[block, -1] > 0)]

    def _product(self, pairs: sparse.csr_array, present: bool = False) -> sparse.csr_array:
        """present: with 1 in place of every entry of the matrix."""
        if self.whole is not None:
            return pairs @ (self.ones if present else self.whole)
        assert self.csr is not None
        rows, place = np.unique(pairs.indices, return_inverse=True)  # only those, from the mapped files
        starts, lengths = self.csr.indptr[rows], self.csr.indptr[rows + 1] - self.csr.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        where = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
        own = sparse.csr_array((pairs.data, place.astype(np.int32), pairs.indptr), shape=(pairs.shape[0], len(rows)))
        some = self._checked(indptr, self.csr.indices[where], self.csr.data[where])
        return own @ (_present(some) if present else some)

    def _checked(self, indptr: NDArray[np.int64], indices: NDArray[np.int32], data: NDArray[np.float32]) -> sparse.csr_array:
        """A part of the matrix. The product would write wherever a wrong column points."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_columns:
            raise CheckpointError(f"matrix of {self.model}", found=f"columns {indices.min()} to {indices.max()}",
                                  expected=f"0 to {self.num_columns - 1}", remedy="run the step that wrote the index again")
        return sparse.csr_array((data, indices, indptr.astype(np.int32)), shape=(len(indptr) - 1, self.num_columns))

    def _blocks(self, pairs: sparse.csr_array) -> list[Tensor]:
        """Runs of queries whose scores, and whose rows of the matrix, are bounded (a query by itself may be above the bound)."""
        if self.csr is None:
            return list(torch.arange(pairs.shape[0]).split(max(1, _CELLS // self.num_columns)))
        read = np.diff(np.concatenate([[0], np.cumsum(np.diff(self.csr.indptr)[pairs.indices])])[pairs.indptr])  # entries, (B,)
        cost = np.minimum(read, self.num_columns) if self.whole is not None else read
        return [torch.arange(part.start, part.stop) for part in _parts(cost, _CELLS)]

    def _known(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Rows that exist and hold something; a row added to the data after the fit does not."""
        inside = (rows > 0) & (rows < len(self.filled))
        return inside & self.filled[np.where(inside, rows, 0)]


def _parts(cost: NDArray[np.int64], most: int, padded: bool = False) -> list[slice]:
    """Runs whose costs add up to `most` at most, or of one. padded: rising costs, and all of a run cost what its last does."""
    parts, start, total = [], 0, np.concatenate([[0], np.cumsum(cost)])
    while start < len(cost):
        spent = cost[start:] * np.arange(1, len(cost) - start + 1) if padded else total[start + 1 :] - total[start]
        stop = start + max(1, int(np.searchsorted(spent, most, side="right")))
        parts.append(slice(start, stop))
        start = stop
    return parts


def _keys(rows: NDArray[np.int64], columns: NDArray[Any], width: int) -> NDArray[np.int64]:
    return rows.astype(np.int64) * width + columns


def _present(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def _entries(product: sparse.csr_array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Those at (rows, columns), (R,) each; 0 where there is none."""
    product.sort_indices()
    width = product.shape[1]
    keys = _keys(np.repeat(np.arange(product.shape[0]), np.diff(product.indptr)), product.indices, width)
    wanted = _keys(rows, columns, width)
    place = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    return np.where(keys[place] == wanted, product.data[place], 0.0).astype(np.float64) if len(keys) else np.zeros(len(rows))


def _any(matrix: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows of a large dense matrix hold anything, (rows,)."""
    step = max(1, _CELLS // matrix.shape[1])
    return np.concatenate([matrix[i : i + step].any(axis=1) for i in range(0, len(matrix), step)])

"""Top k where a query is a few weighted rows of one matrix: the rows of its neighbours, or those
of the items in its history.

The matrix is memory-mapped, so the workers of a host share it. Blocks of queries bound the memory
of temporary results, whatever the number of rows and items. A product that fills a small part of
the catalogue is not made dense: only the items that a query reaches are ranked, and the other items
(whose score is 0) take part only where fewer than k reached items score above 0. The result equals
that of `top_k` over all scores. A score is summed in float32 in the order of the rows, so it
depends on its own query alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core.errors import CheckpointError
from recsys_spark.scoring.topk import TopK, select, top_k, top_k_of

_CELLS = 1 << 23  # scores, or entries of a product, in memory at once: 32 to 100 MB
# Limit of scipy's 32-bit indices: of a matrix with more entries, only the rows that a block of
# queries needs are read
_WHOLE = 2**31 - 1
# catalogues up to this size are ranked whole: cheaper than selecting the reached items
_DENSE = 8192


class Csr(NamedTuple):
    """Row r holds columns indices[indptr[r] : indptr[r + 1]]; `data` holds the values in the same
    positions. The arrays are memory-mapped files or slices of them.
    """

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]
    data: NDArray[np.float32]


class SparseIndex:
    """score(query, i) = sum over the query's pairs (row, weight) of weight * matrix[row, i]; row 0
    and column 0 are padding.
    """

    def __init__(self, matrix: Csr | NDArray[np.float32], num_items: int, model: str) -> None:
        """matrix: rows 0..num_rows, columns 0..num_items; CSR or dense. Raises CheckpointError for
        column indices out of range.
        """
        self.model, self.num_columns = model, num_items + 1
        self.dense = None if isinstance(matrix, Csr) else matrix
        self.csr = matrix if isinstance(matrix, Csr) else None
        # (num_rows + 1,)
        self.filled = np.diff(matrix.indptr) > 0 if isinstance(matrix, Csr) else _any(matrix)
        self.filled[0] = False
        self.whole = (
            self._checked(*matrix)
            if isinstance(matrix, Csr) and len(matrix.indices) <= _WHOLE
            else None
        )

    @cached_property
    def ones(self) -> sparse.csr_array:
        """The whole matrix with every entry replaced by 1; computed only for models that predict
        ratings.
        """
        assert self.whole is not None
        return _present(self.whole)

    def reaches(self, lists: Ragged) -> Tensor:
        """bool (B,): whether any row of the list has an entry."""
        counts = np.concatenate([[0], np.cumsum(self._known(lists.values.numpy()))])
        return torch.from_numpy(np.diff(counts[lists.offsets.numpy()]) > 0)

    def pairs(self, lists: Ragged, weights: NDArray[np.float32] | None = None) -> sparse.csr_array:
        """Returns (B, num_rows + 1), the rows of each query in order. Without weights, repeated
        rows count once.
        """
        rows = lists.values.numpy()
        known = self._known(rows)
        # int32 as in the matrix: otherwise scipy copies the matrix
        offsets = np.concatenate([[0], np.cumsum(known)])[lists.offsets.numpy()].astype(np.int32)
        values = (
            np.ones(int(offsets[-1]), dtype=np.float32)
            if weights is None
            else weights[known].astype(np.float32)
        )
        pairs = sparse.csr_array(
            (values, rows[known], offsets), shape=(len(offsets) - 1, len(self.filled))
        )
        pairs.sum_duplicates()
        if weights is None:
            pairs.data[:] = 1.0
        return pairs

    def scores(self, pairs: sparse.csr_array) -> Tensor:
        """All scores of a few queries, float32 (B, I + 1)."""
        scores = pairs @ self.dense if self.dense is not None else self._product(pairs).toarray()
        return torch.from_numpy(scores)

    def means(
        self,
        pairs: sparse.csr_array,
        query: NDArray[np.int64],
        items: NDArray[np.int64],
        dampen: float,
    ) -> NDArray[np.float64]:
        """Returns (R,): for row r, the weighted mean of column items[r] over the pairs of query[r]
        that have an entry in it. `dampen` is added to the total weight. 0 where no pair has an
        entry. `query` must be sorted in ascending order.
        """
        means = np.zeros(len(query))
        for block in self._blocks(pairs):
            first, last = np.searchsorted(query, [int(block[0]), int(block[-1]) + 1])
            block_pairs, cells = (
                pairs[block.numpy()],
                (query[first:last] - int(block[0]), items[first:last]),
            )
            total, weight = (
                _entries(self._product(block_pairs, present), *cells) for present in (False, True)
            )
            means[first:last] = np.divide(
                total, weight + dampen, out=np.zeros_like(total), where=weight > 0
            )
        return means

    def top_k(
        self, pairs: sparse.csr_array, query: Tensor, seen: Ragged, k: int, seed: int
    ) -> TopK:
        """query (B,): query numbers that break ties; seen: item indices to leave out."""
        best = TopK(torch.zeros(len(query), k, dtype=torch.int32), torch.zeros(len(query), k))
        for block in self._blocks(pairs):
            if self.dense is not None:
                best.items[block], best.scores[block] = top_k(
                    self.scores(pairs[block.numpy()]),
                    query[block],
                    select(seen, block),
                    k,
                    seed,
                    self.model,
                )
                continue
            product = self._product(pairs[block.numpy()])
            pending = block
            if self.num_columns > _DENSE and 4 * product.nnz < product.shape[0] * self.num_columns:
                pending = self._reached(product, block, best, query, seen, k, seed)
            for part in pending.split(max(1, _CELLS // self.num_columns)):
                scores = torch.from_numpy(product[(part - block[0]).numpy()].toarray())
                best.items[part], best.scores[part] = top_k(
                    scores, query[part], select(seen, part), k, seed, self.model
                )
        return best

    def _reached(
        self,
        product: sparse.csr_array,
        block: Tensor,
        best: TopK,
        query: Tensor,
        seen: Ragged,
        k: int,
        seed: int,
    ) -> Tensor:
        """Rank the items that each query of the block reaches. Returns the queries for which those
        items may not suffice.
        """
        lengths = np.diff(product.indptr)
        keys = _keys(np.repeat(np.arange(len(block)), lengths), product.indices, self.num_columns)
        lists = select(seen, block)
        seen_keys = np.sort(
            _keys(
                np.repeat(np.arange(len(block)), lists.offsets.diff().numpy()),
                lists.values.numpy(),
                self.num_columns,
            )
        )
        if len(seen_keys):
            product.data[
                seen_keys[np.minimum(np.searchsorted(seen_keys, keys), len(seen_keys) - 1)] == keys
            ] = -np.inf
        product.data[product.indices == 0] = -np.inf
        order = np.argsort(lengths, kind="stable")
        for part in runs(np.maximum(lengths[order], 1), _CELLS, padded=True):
            rows = order[part]
            filled = np.arange(max(1, lengths[rows].max())) < lengths[rows, None]  # (b, C)
            part_product = product[rows]
            scores = np.full(filled.shape, -np.inf, dtype=np.float32)
            items = np.zeros(filled.shape, dtype=np.int64)
            scores[filled], items[filled] = part_product.data, part_product.indices
            queries = block[torch.from_numpy(rows)]
            best.items[queries], best.scores[queries] = top_k_of(
                torch.from_numpy(scores),
                torch.from_numpy(items),
                query[queries],
                k,
                seed,
                self.model,
            )
        return block[~(best.scores[block, -1] > 0)]

    def _product(self, pairs: sparse.csr_array, present: bool = False) -> sparse.csr_array:
        """present: use 1 in place of every entry of the matrix."""
        if self.whole is not None:
            return pairs @ (self.ones if present else self.whole)
        assert self.csr is not None
        # Read only the rows in use from the mapped files
        rows, inverse = np.unique(pairs.indices, return_inverse=True)
        starts, lengths = self.csr.indptr[rows], self.csr.indptr[rows + 1] - self.csr.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
        block_pairs = sparse.csr_array(
            (pairs.data, inverse.astype(np.int32), pairs.indptr), shape=(pairs.shape[0], len(rows))
        )
        part = self._checked(indptr, self.csr.indices[entries], self.csr.data[entries])
        return block_pairs @ (_present(part) if present else part)

    def _checked(
        self, indptr: NDArray[np.int64], indices: NDArray[np.int32], data: NDArray[np.float32]
    ) -> sparse.csr_array:
        """A part of the matrix. Its columns are checked, because the product writes out of bounds
        for a column out of range.
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_columns:
            raise CheckpointError(
                f"matrix of {self.model}",
                found=f"columns {indices.min()} to {indices.max()}",
                expected=f"0 to {self.num_columns - 1}",
                remedy="run the step that wrote the index again",
            )
        return sparse.csr_array(
            (data, indices, indptr.astype(np.int32)), shape=(len(indptr) - 1, self.num_columns)
        )

    def _blocks(self, pairs: sparse.csr_array) -> list[Tensor]:
        """Blocks of queries whose scores and rows of the matrix are bounded in size (a single query
        may exceed the bound).
        """
        if self.csr is None:
            return list(torch.arange(pairs.shape[0]).split(max(1, _CELLS // self.num_columns)))
        # Number of entries read for each query, (B,)
        read = np.diff(
            np.concatenate([[0], np.cumsum(np.diff(self.csr.indptr)[pairs.indices])])[pairs.indptr]
        )
        cost = np.minimum(read, self.num_columns) if self.whole is not None else read
        return [torch.arange(part.start, part.stop) for part in runs(cost, _CELLS)]

    def _known(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which rows exist and have entries; rows added to the data after the fit do not."""
        inside = (rows > 0) & (rows < len(self.filled))
        return inside & self.filled[np.where(inside, rows, 0)]


def runs(cost: NDArray[np.int64], most: int, padded: bool = False) -> list[slice]:
    """Consecutive slices whose total cost is at most `most`, or of one element. padded: costs are
    in ascending order, and each element of a slice costs as much as the last one.
    """
    parts, start, total = [], 0, np.concatenate([[0], np.cumsum(cost)])
    while start < len(cost):
        spent = (
            cost[start:] * np.arange(1, len(cost) - start + 1)
            if padded
            else total[start + 1 :] - total[start]
        )
        stop = start + max(1, int(np.searchsorted(spent, most, side="right")))
        parts.append(slice(start, stop))
        start = stop
    return parts


def _keys(rows: NDArray[np.int64], columns: NDArray[Any], width: int) -> NDArray[np.int64]:
    return rows.astype(np.int64) * width + columns


def _present(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array(
        (np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape
    )


def _entries(
    product: sparse.csr_array, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The entries at (rows, columns), (R,) each; 0 where there is none."""
    product.sort_indices()
    width = product.shape[1]
    keys = _keys(
        np.repeat(np.arange(product.shape[0]), np.diff(product.indptr)), product.indices, width
    )
    wanted_keys = _keys(rows, columns, width)
    position = np.minimum(np.searchsorted(keys, wanted_keys), max(0, len(keys) - 1))
    return (
        np.where(keys[position] == wanted_keys, product.data[position], 0.0).astype(np.float64)
        if len(keys)
        else np.zeros(len(rows))
    )


def _any(matrix: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool (rows,): which rows of a large dense matrix are not all zero."""
    step = max(1, _CELLS // matrix.shape[1])
    return np.concatenate([matrix[i : i + step].any(axis=1) for i in range(0, len(matrix), step)])

"""The scorers of index artefacts (contracts.Index), one per kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import vstack
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.core.errors import CheckpointError
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.fold_in import FoldIn
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.queries import (
    CELLS,
    HISTORY,
    OFFSET,
    ROWS,
    VECTOR,
    WEIGHTS,
    Scorer,
    own_vector,
)
from recsys_spark.scoring.sparse import SparseIndex
from recsys_spark.scoring.topk import TopK, select


class DotScorer(Scorer):
    """Factors: dot product of the query's vector, or of the index's constant vector, and the
    item's.
    """

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        facts = indices.facts(folder)
        self.facts, self.model, self.num_items = facts, facts.model, facts.num_items
        columns = facts.num_items + 1
        popularity = (
            indices.array(folder, facts.fallback_scores, (columns,))
            if facts.fallback_scores
            else fallback
        )
        super().__init__(k, seed, torch.zeros(columns) if popularity is None else popularity)
        self.bias = indices.array(folder, facts.bias, (columns,)) if facts.bias else None
        self.dot = DotIndex(
            indices.array(folder, facts.items, (columns, facts.dim)), self.bias, facts.model
        )
        # A view: the catalogue is held once, with its bias beside it
        self.items = self.dot.items[:columns, : facts.dim]
        self.fold_in = (
            FoldIn(facts.fold_in, self.items, indices.gram(folder, facts), facts.model)
            if facts.fold_in
            else None
        )

    def _rows(self, block: int) -> int:
        return 1 << 20  # DotIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        if self.facts.constant:
            return torch.zeros(len(user), dtype=torch.bool)
        cold = ~own_vector(batch)
        if self.fold_in is not None:
            cold[cold.clone()] = ~self.fold_in.reaches(select(history, cold.nonzero()[:, 0]))
        return cold

    def _best(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, seen: Ragged
    ) -> TopK:
        return self.dot.top_k(self._vectors(batch, rows), user, seen, self.k, self.seed)

    def _score(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor
    ) -> Tensor:
        # Summed along the last dimension, in the same order at every position of an item: equal
        # items get exactly equal scores, so ties are detected.
        scores = (self.items[items] * self._vectors(batch, rows)[:, None]).sum(-1)
        return scores if self.bias is None else scores + self.bias[items]

    def _vectors(self, batch: pa.RecordBatch, rows: Tensor) -> Tensor:
        if self.facts.constant:
            return torch.tensor(self.facts.constant).expand(len(rows), -1)
        column = batch.column(VECTOR)
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        warm = len(column) - column.null_count
        if len(flat) != warm * self.facts.dim:
            raise CheckpointError(
                f"vectors of {self.model}",
                found=f"{len(flat)} numbers for {warm} queries",
                expected=f"{self.facts.dim} each",
                remedy="run the step that wrote the index again",
            )
        stored = torch.from_numpy(flat).view(warm, self.facts.dim)
        if warm == len(rows) == len(column):
            return stored
        has_vector = own_vector(batch)
        vectors = torch.zeros(len(column), self.facts.dim)
        vectors[has_vector] = stored
        if self.fold_in is not None:
            missing = rows[~has_vector[rows]]
            vectors[missing] = self.fold_in.vectors(select(ragged(batch.column(HISTORY)), missing))
        return vectors[rows]

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        item = torch.from_numpy(batch.column(c.ITEM_IDX).to_numpy().astype(np.int64))
        item = item * (item <= self.num_items)
        cold = self._cold(batch, item, Ragged(item, item))
        warm = (~cold).nonzero()[:, 0]
        values = self.fallback[item].double()
        products = (self._vectors(batch, warm).double() * self.items[item[warm]].double()).sum(1)
        values[warm] = products if self.bias is None else products + self.bias[item[warm]].double()
        return pa.array(
            values.clamp(self.facts.low, self.facts.high).numpy()
            if self.facts.low is not None
            else values.numpy()
        )


def places_from_end(history: Ragged) -> Tensor:
    """int64 (entries,): 0 for the last entry of each list.

    >>> places_from_end(Ragged(torch.tensor([0, 3, 3, 4]), torch.tensor([5, 7, 6, 9]))).tolist()
    [2, 1, 0, 0]
    """
    ends = torch.repeat_interleave(history.offsets[1:], history.offsets.diff())
    return ends - 1 - torch.arange(len(history.values))


class SparseScorer(Scorer):
    """Weighted rows of one matrix: those that the query names, or those of its history."""

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        facts = indices.facts(folder)
        self.model = facts.model
        self.num_items = facts.num_items
        self.own_rows = bool(facts.queries)
        self.history = facts.history
        popularity = (
            indices.array(folder, facts.fallback_scores, (facts.num_items + 1,))
            if facts.fallback_scores
            else fallback
        )
        super().__init__(
            k, seed, torch.zeros(facts.num_items + 1) if popularity is None else popularity
        )
        self.index = SparseIndex(indices.matrix(folder, facts), facts.num_items, facts.model)
        self.facts = facts
        self.bias = (
            indices.array(folder, facts.bias, (facts.num_items + 1,)).numpy()
            if facts.bias
            else None
        )

    def _rows(self, block: int) -> int:
        return 1 << 20  # SparseIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        read = ragged(batch.column(ROWS)) if self.own_rows else self._newest(history)
        cold = ~self.index.reaches(read)
        if self.history:
            cold[cold.clone()] = ~self.index.reaches(select(history, cold.nonzero()[:, 0]))
        return cold

    def _best(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, seen: Ragged
    ) -> TopK:
        return self.index.top_k(self._pairs(batch, rows, history), user, seen, self.k, self.seed)

    def _score(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor
    ) -> Tensor:
        pairs = self._pairs(batch, rows, history)
        blocks = torch.arange(len(rows)).split(max(1, CELLS // (self.num_items + 1)))
        return torch.cat(
            [self.index.scores(pairs[block.numpy()]).gather(1, items[block]) for block in blocks]
        )

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """All rows of a user in the batch are multiplied with the matrix together. A user without
        `offset` gets the item's bias.
        """
        if self.facts.dampen is None or self.bias is None:
            return super().predict(batch)
        item = batch.column(c.ITEM_IDX).to_numpy(zero_copy_only=False).astype(np.int64)
        item = item * (item <= self.num_items)
        offset = batch.column(OFFSET).to_numpy(zero_copy_only=False).astype(np.float64)  # NaN: none
        _, first, user = np.unique(
            batch.column(c.QUERY_IDX).to_numpy(zero_copy_only=False),
            return_index=True,
            return_inverse=True,
        )
        queries = batch.take(pa.array(first))
        pairs = self.index.pairs(
            ragged(queries.column(ROWS)),
            queries.column(WEIGHTS).flatten().to_numpy(zero_copy_only=False),
        )
        order = np.argsort(user, kind="stable")
        departure = np.zeros(len(item))
        departure[order] = self.index.means(pairs, user[order], item[order], self.facts.dampen)
        values = self.bias[item].astype(np.float64) + np.nan_to_num(offset) + departure
        return pa.array(values.clip(self.facts.low, self.facts.high))

    def _newest(self, history: Ragged) -> Ragged:
        """The part of each history that counts."""
        if not self.facts.last:
            return history
        kept = places_from_end(history) < self.facts.last
        lengths = history.offsets.diff().clamp(max=self.facts.last)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return Ragged(offsets, history.values[kept])

    def _decayed(self, history: Ragged) -> NDArray[np.float32] | None:
        """Weights of the entries; None: all 1."""
        if self.facts.decay == 1:
            return None
        return (self.facts.decay ** places_from_end(history).double()).float().numpy()

    def _pairs(self, batch: pa.RecordBatch, rows: Tensor, history: Ragged) -> Any:
        """Rows of the matrix and their weights: scipy CSR (B, num_rows + 1)."""
        if not self.own_rows:
            history = self._newest(history)
            return self.index.pairs(history, self._decayed(history))
        weights = batch.column(WEIGHTS).flatten().to_numpy(zero_copy_only=False)
        lists = ragged(batch.column(ROWS))
        pairs = self.index.pairs(lists, weights)[rows.numpy()]
        if not self.history or not len(
            missing := (~self.index.reaches(lists)[rows]).nonzero()[:, 0]
        ):
            return pairs
        order = np.arange(len(rows))
        order[missing.numpy()] = len(rows) + np.arange(len(missing))
        return vstack([pairs, self.index.pairs(select(history, missing))], format="csr")[order]

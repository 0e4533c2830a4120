"""Record batches of queries in, record batches of ranked items (or of predictions) out: what the scorers of models and indices share.

A query is cold when there is nothing to score it by: no vector in the index nor a history that gives it one (fold_in.py), or for a
trained model an unknown user (0) or, unless it reads fields of users, an empty history. It gets the fallback (popularity) and is marked
`cold`; no query is dropped. Where queries bring their `candidates`, each one's own are ranked, all of them: a history leaves none out.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.core import columns as c
from recsys_spark.models.batches import Ragged
from recsys_spark.scoring import lists
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.topk import TopK, select, top_k, top_k_of

HISTORY, VECTOR, COLD, FOLDED, PREDICTION = "history", "vector", "cold", "folded", "prediction"
ROWS, WEIGHTS, OFFSET = "rows", "weights", "offset"  # of a query of an index of kind `sparse`
CANDIDATES = "candidates"
VALUES = "history_values"  # beside the history, for models of rating profiles
CELLS = 8 << 20  # scores held at once: 32 MB
WIDTH = 512  # numbers that a candidate takes while it is scored, at most about (its factors, a hidden layer)


class Scorer:
    """Base: `_best` ranks the catalogue for warm queries, `_score` scores their candidates; `fallback` (I + 1,) is for cold ones."""

    model: str
    num_items: int

    def __init__(self, k: int, seed: int, fallback: Tensor) -> None:
        self.k, self.seed, self.fallback = k, seed, fallback

    def rank(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In: user_idx int32, history list<int32> (to be left out), what the index has of a query; perhaps candidates list<int32>.

        Out: user_idx, item_idx list<int32>, score list<float32> (at most k, or all candidates; best first), cold bool; rows in order.
        """
        user = torch.from_numpy(batch.column(c.USER_IDX).to_numpy(zero_copy_only=False).astype(np.int32))
        history = ragged(batch.column(HISTORY))
        cold = self._cold(batch, user, history)
        offered = lists.padded(ragged(batch.column(CANDIDATES))) if CANDIDATES in batch.schema.names else None
        ranked = self._catalogue(batch, user, history, cold) if offered is None else self._offered(batch, user, history, cold, offered)
        return pa.RecordBatch.from_arrays([pa.array(user.numpy()), *lists.columns(*ranked), pa.array(cold.numpy())],
                                          names=[c.USER_IDX, c.ITEM_IDX, c.SCORE, COLD])

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """Expected value of each row (user_idx, item_idx; for an index vector, for a model what is known of the event), double (B,)."""
        raise NotImplementedError(f"{self.model} predicts no rows")

    def _catalogue(self, batch: pa.RecordBatch, user: Tensor, history: Ragged, cold: Tensor) -> TopK:
        items, scores = torch.zeros(len(user), self.k, dtype=torch.int32), torch.zeros(len(user), self.k)
        block = max(1, CELLS // (self.num_items + 1))
        for rows in blocks(~cold, self._rows(block)):
            items[rows], scores[rows] = self._best(batch, rows, user[rows].long(), select(history, rows))
        for rows in blocks(cold, block):
            dense = self.fallback.expand(len(rows), -1).clone()
            items[rows], scores[rows] = top_k(dense, user[rows].long(), select(history, rows), self.k, self.seed, "the fallback")
        return TopK(items, scores)

    def _offered(self, batch: pa.RecordBatch, user: Tensor, history: Ragged, cold: Tensor, items: Tensor) -> TopK:
        """items: int64 (B, C), each query's candidates, 0 where it has fewer."""
        scores = self.fallback[items]  # (B, C)
        for rows in blocks(~cold, max(1, CELLS // (WIDTH * items.shape[1]))):
            scores[rows] = self._score(batch, rows, user[rows].long(), select(history, rows), items[rows])
        scores[items == 0] = -torch.inf
        return top_k_of(scores, items, user.long(), items.shape[1], self.seed, self.model)

    def _rows(self, block: int) -> int:
        return block

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        return history.offsets.diff() == 0

    def _best(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged) -> TopK:
        """The k best of the catalogue for these rows of the batch; `user` and `history` are those rows' own."""
        raise NotImplementedError

    def _score(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor) -> Tensor:
        """The scores of `items` (B, C) for these rows of the batch, float32 (B, C)."""
        raise NotImplementedError


def blocks(wanted: Tensor, most: int) -> tuple[Tensor, ...]:
    """The numbers of the wanted rows, (B,) bool, at most so many at a time; of no row nothing, where torch makes one empty part."""
    rows = wanted.nonzero()[:, 0]
    return rows.split(most) if len(rows) else ()


def own_vector(batch: pa.RecordBatch) -> Tensor:
    """Queries that need no folding in, (B,) bool: all, or those with a vector of their own."""
    if VECTOR not in batch.schema.names:
        return torch.ones(batch.num_rows, dtype=torch.bool)
    return torch.from_numpy(batch.column(VECTOR).is_valid().to_numpy(zero_copy_only=False))

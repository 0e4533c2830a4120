"""Record batches of queries in, record batches of ranked items (or of predictions) out: the base of
the scorers of models and indices.

A query is cold when it has no input to score by. For an index: neither a vector nor a history that
gives it one (fold_in.py). For a trained model: an unknown user (0) or, unless the model reads
fields of users, an empty history. A cold query gets the fallback (popularity) and is marked `cold`;
no query is dropped. What it has met (`seen`) is left out of its list. Where queries have
`candidates`, all candidates of a query are ranked, also those it has met.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.scoring import lists
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.topk import TopK, select, top_k, top_k_of

HISTORY = "history"
VECTOR = "vector"
COLD = "cold"
FOLDED = "folded"
PREDICTION = "prediction"
ROWS, WEIGHTS, OFFSET = "rows", "weights", "offset"  # of a query of an index of kind `sparse`
CANDIDATES = "candidates"
OF_CANDIDATES = "candidates_"  # prefix of lists beside them: the fields of the events they would be
# Items that are left out of the list; without this column those of the history
SEEN = "seen"
AT = "at"  # time for which the list is made, seconds since 1970
VALUES = "history_values"
# Parallel to the entries that the model reads: field of a query -> (column of lists, dtype)
BESIDE_HISTORY: dict[str, tuple[str, type[np.generic]]] = {
    "values": (VALUES, np.float32),
    "ts": ("history_ts", np.int64),
    "actions": ("history_actions", np.int32),
}
CELLS = 8 << 20  # scores in memory at once: 32 MB
# elements that scoring one candidate takes, approximate maximum (its factors, a hidden layer)
WIDTH = 512


class Scorer:
    """Base: `_best` ranks the catalogue for warm queries, `_score` scores their candidates;
    `fallback` (I + 1,) is for cold ones.
    """

    model: str
    num_items: int
    repeats: bool = False  # whether it reads every event of a history; else each item once

    def __init__(self, k: int, seed: int, fallback: Tensor) -> None:
        self.k, self.seed, self.fallback = k, seed, fallback

    def rank(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In: query_idx int32, history list<int32> (oldest first), the index's columns of a query,
        and optionally seen list<int32>, candidates list<int32>.

        Out: query_idx, item_idx list<int32>, score list<float32> (at most k, or all candidates;
        best first), cold bool; rows in order.
        """
        user = torch.from_numpy(
            batch.column(c.QUERY_IDX).to_numpy(zero_copy_only=False).astype(np.int32)
        )
        history = self._known(batch, HISTORY)
        seen = self._known(batch, SEEN) if SEEN in batch.schema.names else history
        cold = self._cold(batch, user, history)
        offered = (
            lists.padded(self._known(batch, CANDIDATES))
            if CANDIDATES in batch.schema.names
            else None
        )
        ranked = (
            self._catalogue(batch, user, history, seen, cold)
            if offered is None
            else self._offered(batch, user, history, cold, offered)
        )
        return pa.RecordBatch.from_arrays(
            [pa.array(user.numpy()), *lists.columns(*ranked), pa.array(cold.numpy())],
            names=[c.QUERY_IDX, c.ITEM_IDX, c.SCORE, COLD],
        )

    def _known(self, batch: pa.RecordBatch, column: str) -> Ragged:
        """A column of items, 0 where the catalogue of the model lacks one: it is younger."""
        items = ragged(batch.column(column))
        return Ragged(items.offsets, items.values * (items.values <= self.num_items))

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """Expected value of each row, double (B,). Rows have query_idx and item_idx; for an index
        also the vector, for a model the fields of the event.
        """
        raise NotImplementedError(f"{self.model} predicts no rows")

    def _catalogue(
        self, batch: pa.RecordBatch, user: Tensor, history: Ragged, seen: Ragged, cold: Tensor
    ) -> TopK:
        items = torch.zeros(len(user), self.k, dtype=torch.int32)
        scores = torch.zeros(len(user), self.k)
        block = max(1, CELLS // (self.num_items + 1))
        for rows in blocks(~cold, self._rows(block)):
            items[rows], scores[rows] = self._best(
                batch, rows, user[rows].long(), select(history, rows), select(seen, rows)
            )
        for rows in blocks(cold, block):
            dense = self.fallback.expand(len(rows), -1).clone()
            items[rows], scores[rows] = top_k(
                dense, user[rows].long(), select(seen, rows), self.k, self.seed, "the fallback"
            )
        return TopK(items, scores)

    def _offered(
        self, batch: pa.RecordBatch, user: Tensor, history: Ragged, cold: Tensor, items: Tensor
    ) -> TopK:
        """Rank the queries' own candidates. items: int64 (B, C), 0 where a query has fewer."""
        scores = self.fallback[items]  # (B, C)
        for rows in blocks(~cold, max(1, CELLS // (WIDTH * items.shape[1]))):
            scores[rows] = self._score(
                batch, rows, user[rows].long(), select(history, rows), items[rows]
            )
        scores[items == 0] = -torch.inf
        return top_k_of(scores, items, user.long(), items.shape[1], self.seed, self.model)

    def _rows(self, block: int) -> int:
        return block

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        return history.offsets.diff() == 0

    def _best(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, seen: Ragged
    ) -> TopK:
        """The k best of the catalogue for these rows of the batch; `user`, `history` and `seen` are
        already reduced to those rows.
        """
        raise NotImplementedError

    def _score(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor
    ) -> Tensor:
        """The scores of `items` (B, C) for these rows of the batch, float32 (B, C)."""
        raise NotImplementedError


def blocks(mask: Tensor, most: int) -> tuple[Tensor, ...]:
    """The row numbers where `mask`, (B,) bool, is true, in blocks of at most `most`. No blocks when
    there are no rows (torch.split would give one empty block).
    """
    rows = mask.nonzero()[:, 0]
    return rows.split(most) if len(rows) else ()


def own_vector(batch: pa.RecordBatch) -> Tensor:
    """bool (B,): queries that need no folding in: those with a vector, or all where the batch has
    no VECTOR column.
    """
    if VECTOR not in batch.schema.names:
        return torch.ones(batch.num_rows, dtype=torch.bool)
    return torch.from_numpy(batch.column(VECTOR).is_valid().to_numpy(zero_copy_only=False))

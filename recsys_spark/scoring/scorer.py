"""Record batches of queries in, record batches of ranked items (or of predictions) out: the one scorer of models and baselines.

A query is cold when there is nothing to score it by: no vector in the index nor a history that gives it one (fold_in.py), or for a
trained model an unknown user (0) or, unless it reads fields of users, an empty history. It gets the fallback (popularity) and is marked
`cold`; no query is dropped. Where queries bring their `candidates`, each one's own are ranked, all of them: a history leaves none out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import vstack
from torch import Tensor

from recsys_spark.core import columns as c
from recsys_spark.core.errors import CheckpointError
from recsys_spark.models import store
from recsys_spark.models.base import Model, Profile, Query, Ragged, Rows
from recsys_spark.nn.fields import Fields
from recsys_spark.scoring import index as indices
from recsys_spark.scoring import lists
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.events import encoded
from recsys_spark.scoring.fold_in import FoldIn
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.sparse import SparseIndex
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
        for rows in _blocks(~cold, self._rows(block)):
            items[rows], scores[rows] = self._best(batch, rows, user[rows].long(), select(history, rows))
        for rows in _blocks(cold, block):
            dense = self.fallback.expand(len(rows), -1).clone()
            items[rows], scores[rows] = top_k(dense, user[rows].long(), select(history, rows), self.k, self.seed, "the fallback")
        return TopK(items, scores)

    def _offered(self, batch: pa.RecordBatch, user: Tensor, history: Ragged, cold: Tensor, items: Tensor) -> TopK:
        """items: int64 (B, C), each query's candidates, 0 where it has fewer."""
        scores = self.fallback[items]  # (B, C)
        for rows in _blocks(~cold, max(1, CELLS // (WIDTH * items.shape[1]))):
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


class ModelScorer(Scorer):
    """A trained model: scores the whole catalogue for a block of users at a time, or through its index where it has one."""

    def __init__(self, model: Model, name: str, k: int, seed: int, fallback: Tensor, device: str) -> None:
        super().__init__(k, seed, fallback)
        self.network, self.model, self.device = model.to(device).eval(), name, torch.device(device)
        self.num_items = model.sizes.num_items
        # By its fields a user is known who has no history.
        self.reads_users = any(isinstance(part, Fields) and part.features["user"] for part in model.modules())
        self.factors = model.index()
        self.dot = DotIndex(self.factors.items.detach().cpu(), self.factors.bias.detach().cpu(), name) if self.factors else None

    def _rows(self, block: int) -> int:
        return 1 << 20 if self.dot else block  # DotIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        unknown = (user == 0) | (user > self.network.sizes.num_users)
        return unknown if self.reads_users else unknown | (history.offsets.diff() == 0)

    def _best(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged) -> TopK:
        if self.dot and self.factors:
            return self.dot.top_k(self.factors.users[user.to(self.device)].cpu().float(), user, history, self.k, self.seed)
        query = self._query(batch, rows, user, history)
        best = top_k(self.network.score(query), user.to(self.device), query.history, self.k, self.seed, self.model)
        return TopK(best.items.cpu(), best.scores.cpu())

    def _score(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor) -> Tensor:
        return self.network.score(self._query(batch, rows, user, history), items.to(self.device)).float().cpu()

    def _query(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged) -> Query:
        values = None
        if VALUES in batch.schema.names:
            values = select(ragged(batch.column(VALUES), np.float32), rows).values.to(self.device)
        return Query(user.int().to(self.device), Ragged(history.offsets.to(self.device), history.values.to(self.device)), values)

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """Of profiles, rows of (user_idx or item_idx, history, history_values, held_idx): of each held entry, (held entries,)."""
        if self.network.layout == "profile":
            return self._predict_held(batch)
        user, item = (torch.from_numpy(batch.column(name).to_numpy().astype(np.int32)) for name in (c.USER_IDX, c.ITEM_IDX))
        sizes = self.network.sizes
        user, item = user * (user <= sizes.num_users), item * (item <= sizes.num_items)  # beyond the tables: unknown, row 0
        nothing = torch.zeros(len(user))
        rows = Rows(user, item, nothing, nothing, torch.zeros(len(user), dtype=torch.int64), *encoded(batch, sizes.fields))
        dtype = next(self.network.parameters()).dtype
        return pa.array(self.network.predict(rows.to(self.device, dtype))[self.network.task].double().cpu().numpy())

    def _predict_held(self, batch: pa.RecordBatch) -> pa.Array:
        """Some rows at a time: profiles are dense in the model. Entries beyond its tables are unknown, 0."""
        by_user = c.USER_IDX in batch.schema.names
        sizes, dtype = self.network.sizes, next(self.network.parameters()).dtype
        entries = sizes.num_items if by_user else sizes.num_users
        own = torch.from_numpy(batch.column(c.USER_IDX if by_user else c.ITEM_IDX).to_numpy().astype(np.int32))
        history, held, values = *(ragged(batch.column(name)) for name in (HISTORY, c.HELD_IDX)), ragged(batch.column(VALUES), np.float32)
        history, held = (Ragged(lists.offsets, lists.values * (lists.values <= entries)) for lists in (history, held))
        found = []
        for rows in torch.arange(len(own)).split(max(1, CELLS // (entries + 1))):
            known, asked = select(history, rows), select(held, rows)
            profile = Profile(own[rows], known, select(values, rows).values, rows, asked, torch.zeros(len(asked.values)))
            found.append(self.network.predict(profile.to(self.device, dtype))[self.network.task].double().cpu().numpy())
        return pa.array(np.concatenate(found) if found else np.zeros(0))


class DotScorer(Scorer):
    """Factors: the query's vector, or the index's constant one, times the items'."""

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        facts = indices.facts(folder)
        self.facts, self.model, self.num_items = facts, facts.model, facts.num_items
        columns = facts.num_items + 1
        own = indices.array(folder, facts.fallback_scores, (columns,)) if facts.fallback_scores else fallback
        super().__init__(k, seed, torch.zeros(columns) if own is None else own)
        self.items = indices.array(folder, facts.items, (columns, facts.dim))
        self.bias = indices.array(folder, facts.bias, (columns,)) if facts.bias else None
        self.dot = DotIndex(self.items, self.bias, facts.model)
        self.fold_in = FoldIn(facts.fold_in, self.items, indices.gram(folder, facts), facts.model) if facts.fold_in else None

    def _rows(self, block: int) -> int:
        return 1 << 20  # DotIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        if self.facts.constant:
            return torch.zeros(len(user), dtype=torch.bool)
        cold = ~own_vector(batch)
        if self.fold_in is not None:
            cold[cold.clone()] = ~self.fold_in.reaches(select(history, cold.nonzero()[:, 0]))
        return cold

    def _best(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged) -> TopK:
        return self.dot.top_k(self._vectors(batch, rows), user, history, self.k, self.seed)

    def _score(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor) -> Tensor:
        # Added along the last dimension, in one order wherever an item stands: items that are equal get equal scores, and are seen to tie.
        scores = (self.items[items] * self._vectors(batch, rows)[:, None]).sum(-1)
        return scores if self.bias is None else scores + self.bias[items]

    def _vectors(self, batch: pa.RecordBatch, rows: Tensor) -> Tensor:
        if self.facts.constant:
            return torch.tensor(self.facts.constant).expand(len(rows), -1)
        column = batch.column(VECTOR)
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        warm = len(column) - column.null_count
        if len(flat) != warm * self.facts.dim:
            raise CheckpointError(f"vectors of {self.model}", found=f"{len(flat)} numbers for {warm} queries",
                                  expected=f"{self.facts.dim} each", remedy="run the step that wrote the index again")
        made = torch.from_numpy(flat).view(warm, self.facts.dim)
        if warm == len(rows) == len(column):
            return made
        own = own_vector(batch)
        found = torch.zeros(len(column), self.facts.dim)
        found[own] = made
        if self.fold_in is not None:
            missing = rows[~own[rows]]
            found[missing] = self.fold_in.vectors(select(ragged(batch.column(HISTORY)), missing))
        return found[rows]

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        item = torch.from_numpy(batch.column(c.ITEM_IDX).to_numpy().astype(np.int64))
        item = item * (item <= self.num_items)
        cold = self._cold(batch, item, Ragged(item, item))
        warm = (~cold).nonzero()[:, 0]
        values = self.fallback[item].double()
        found = (self._vectors(batch, warm).double() * self.items[item[warm]].double()).sum(1)
        values[warm] = found if self.bias is None else found + self.bias[item[warm]].double()
        return pa.array(values.clamp(self.facts.low, self.facts.high).numpy() if self.facts.low is not None else values.numpy())


class SparseScorer(Scorer):
    """Weighted rows of one matrix: the query's own, or those of its history."""

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        facts = indices.facts(folder)
        self.model, self.num_items, self.own_rows, self.history = facts.model, facts.num_items, bool(facts.queries), facts.history
        own = indices.array(folder, facts.fallback_scores, (facts.num_items + 1,)) if facts.fallback_scores else fallback
        super().__init__(k, seed, torch.zeros(facts.num_items + 1) if own is None else own)
        self.index = SparseIndex(indices.matrix(folder, facts), facts.num_items, facts.model)
        self.facts = facts
        self.bias = indices.array(folder, facts.bias, (facts.num_items + 1,)).numpy() if facts.bias else None

    def _rows(self, block: int) -> int:
        return 1 << 20  # SparseIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        cold = ~self.index.reaches(ragged(batch.column(ROWS)) if self.own_rows else history)
        if self.history:
            cold[cold.clone()] = ~self.index.reaches(select(history, cold.nonzero()[:, 0]))
        return cold

    def _best(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged) -> TopK:
        return self.index.top_k(self._pairs(batch, rows, history), user, history, self.k, self.seed)

    def _score(self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor) -> Tensor:
        pairs = self._pairs(batch, rows, history)
        blocks = torch.arange(len(rows)).split(max(1, CELLS // (self.num_items + 1)))
        return torch.cat([self.index.scores(pairs[block.numpy()]).gather(1, items[block]) for block in blocks])

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """A user's rows of the batch are met with the matrix together. A user without `offset` gets the item's own value."""
        if self.facts.dampen is None or self.bias is None:
            return super().predict(batch)
        item = batch.column(c.ITEM_IDX).to_numpy(zero_copy_only=False).astype(np.int64)
        item = item * (item <= self.num_items)
        offset = batch.column(OFFSET).to_numpy(zero_copy_only=False).astype(np.float64)  # NaN: none
        _, first, user = np.unique(batch.column(c.USER_IDX).to_numpy(zero_copy_only=False), return_index=True, return_inverse=True)
        mine = batch.take(pa.array(first))
        pairs = self.index.pairs(ragged(mine.column(ROWS)), mine.column(WEIGHTS).flatten().to_numpy(zero_copy_only=False))
        order = np.argsort(user, kind="stable")
        departure = np.zeros(len(item))
        departure[order] = self.index.means(pairs, user[order], item[order], self.facts.dampen)
        values = self.bias[item].astype(np.float64) + np.nan_to_num(offset) + departure
        return pa.array(values.clip(self.facts.low, self.facts.high))

    def _pairs(self, batch: pa.RecordBatch, rows: Tensor, history: Ragged) -> Any:
        """Rows of the matrix and their weights: scipy CSR (B, num_rows + 1)."""
        if not self.own_rows:
            return self.index.pairs(history)
        weights = batch.column(WEIGHTS).flatten().to_numpy(zero_copy_only=False)
        brought = ragged(batch.column(ROWS))
        own = self.index.pairs(brought, weights)[rows.numpy()]
        if not self.history or not len(missing := (~self.index.reaches(brought)[rows]).nonzero()[:, 0]):
            return own
        order = np.arange(len(rows))
        order[missing.numpy()] = len(rows) + np.arange(len(missing))
        return vstack([own, self.index.pairs(select(history, missing))], format="csr")[order]


def load(path: str | Path, *, k: int, seed: int, device: str = "cpu", fallback: str | Path | None = None) -> Scorer:
    """The scorer of an index folder (index.json) or of a checkpoint folder (model.json).

    fallback: a .npy of scores (I + 1,) for cold queries where the folder has none of its own. Raises CheckpointError.
    """
    folder = Path(path)
    if (folder / indices.FILE).exists():
        facts = indices.facts(folder)
        kind = {"dot": DotScorer, "sparse": SparseScorer}[facts.kind]
        return kind(folder, k, seed, _fallback(fallback, facts.num_items))
    if (folder / store.FACTS).exists():
        model = store.load(folder)
        name, given = store.read_facts(folder).model, _fallback(fallback, model.sizes.num_items)
        return ModelScorer(model, name, k, seed, torch.zeros(model.sizes.num_items + 1) if given is None else given, device)
    raise CheckpointError(str(folder), found="neither index.json nor model.json", expected="an index or a checkpoint",
                          remedy="run the training step again")


def _blocks(wanted: Tensor, most: int) -> tuple[Tensor, ...]:
    """The numbers of the wanted rows, (B,) bool, at most so many at a time; of no row nothing, where torch makes one empty part."""
    rows = wanted.nonzero()[:, 0]
    return rows.split(most) if len(rows) else ()


def own_vector(batch: pa.RecordBatch) -> Tensor:
    """Queries that need no folding in, (B,) bool: all, or those with a vector of their own."""
    if VECTOR not in batch.schema.names:
        return torch.ones(batch.num_rows, dtype=torch.bool)
    return torch.from_numpy(batch.column(VECTOR).is_valid().to_numpy(zero_copy_only=False))


def _fallback(path: str | Path | None, num_items: int) -> Tensor | None:
    if path is None:
        return None
    return indices.array(Path(path).parent, Path(path).name, (num_items + 1,))

"""The scorer of a trained model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.core import columns as c
from recsys_spark.models.base import Model
from recsys_spark.models.batches import Profile, Query, Ragged, Rows
from recsys_spark.nn.fields import Fields
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.events import encoded
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.queries import CELLS, HISTORY, VALUES, Scorer
from recsys_spark.scoring.topk import TopK, select, top_k


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

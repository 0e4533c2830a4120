"""The scorer of a trained model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.batches import registry
from recsys_spark.batches.base import Ragged
from recsys_spark.batches.query import Query
from recsys_spark.core import columns as c
from recsys_spark.models.base import Model
from recsys_spark.nn.fields import Fields
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.events import columns_of
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.queries import (
    AT,
    BESIDE_HISTORY,
    CANDIDATES,
    CELLS,
    HISTORY,
    OF_CANDIDATES,
    Scorer,
)
from recsys_spark.scoring.topk import TopK, select, top_k


class ModelScorer(Scorer):
    """A trained model: scores the whole catalogue for a block of users at a time, or uses its index
    if it has one.
    """

    def __init__(
        self, model: Model, name: str, k: int, seed: int, fallback: Tensor, device: str
    ) -> None:
        super().__init__(k, seed, fallback)
        self.network, self.model, self.device = model.to(device).eval(), name, torch.device(device)
        self.num_items = model.sizes.num_items
        # A model that reads fields of users can score a user without history.
        self.reads_users = any(
            isinstance(part, Fields) and part.features["user"] for part in model.modules()
        )
        self.batches = registry.find(model.layout)
        self.repeats = self.batches.repeats
        index = model.index()
        self.dot = (
            DotIndex(index.items.detach().cpu(), index.bias.detach().cpu(), name) if index else None
        )

    def _rows(self, block: int) -> int:
        return 1 << 20 if self.dot else block  # DotIndex makes its own blocks

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        if self._fields_of_candidates(batch):
            return torch.zeros(len(user), dtype=torch.bool)  # items and fields tell enough
        unknown = (user == 0) | (user > self.network.sizes.num_users)
        no_history = history.offsets.diff() == 0
        if self.reads_users:
            return unknown
        return no_history if self.batches.by_history else unknown | no_history

    def _best(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, seen: Ragged
    ) -> TopK:
        query = self._query(batch, rows, user, history, seen)
        if self.dot:
            vectors = self.network.encode(query).cpu().float()
            return self.dot.top_k(vectors, user, seen, self.k, self.seed)
        scores = self.network.score(query)
        best = top_k(scores, query.named, query.left_out, self.k, self.seed, self.model)
        return TopK(best.items.cpu(), best.scores.cpu())

    def _score(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor
    ) -> Tensor:
        if fields := self._fields_of_candidates(batch):
            return self._score_events(batch.take(pa.array(rows.numpy())), fields, items.shape[1])
        query = self._query(batch, rows, user, history, history)
        return self.network.score(query, items.to(self.device)).float().cpu()

    def _fields_of_candidates(self, batch: pa.RecordBatch) -> list[str]:
        """Fields of events that this model reads, where the batch has them of its candidates."""
        names = [one.column for one in self.network.sizes.fields if one.side == "event"]
        return [name for name in names if OF_CANDIDATES + name in batch.schema.names]

    def _score_events(self, batch: pa.RecordBatch, fields: list[str], width: int) -> Tensor:
        """Each candidate as the event that it would be: float32 (B, width)."""
        lengths = torch.from_numpy(batch.column(CANDIDATES).value_lengths().to_numpy().copy())
        user = batch.column(c.QUERY_IDX).to_numpy(zero_copy_only=False)
        events = {
            c.QUERY_IDX: pa.array(np.repeat(user, lengths.numpy())),
            c.ITEM_IDX: batch.column(CANDIDATES).flatten(),
        } | {name: batch.column(OF_CANDIDATES + name).flatten() for name in fields}
        predicted = self.predict(pa.RecordBatch.from_pydict(events)).to_numpy().copy()
        scores = torch.zeros(len(lengths), width)
        scores[torch.arange(width) < lengths[:, None]] = torch.from_numpy(predicted).float()
        return scores

    def _query(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, seen: Ragged
    ) -> Query:
        sizes, names = self.network.sizes, batch.schema.names
        known = history.values * (history.values <= sizes.num_items)
        fields = {
            field: select(ragged(batch.column(column), dtype), rows).values
            for field, (column, dtype) in BESIDE_HISTORY.items()
            if column in names
        }
        times = None
        if AT in names:
            times = torch.from_numpy(batch.column(AT).to_numpy(zero_copy_only=False).copy())[rows]
        return Query(
            (user * (user <= sizes.num_users)).int(),
            Ragged(history.offsets, known),
            at=times,
            exclude=None if seen is history else seen,
            key=user.long(),
            **fields,
        ).to(self.device)

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        """The vectors of queries, list<float32> (B,), for a model with an index: their dot product
        with `dot.items`, whose last column is the bias, is the score.
        """
        user = torch.from_numpy(
            batch.column(c.QUERY_IDX).to_numpy(zero_copy_only=False).astype(np.int32)
        )
        history = ragged(batch.column(HISTORY))
        query = self._query(batch, torch.arange(len(user)), user.long(), history, history)
        vectors = torch.nn.functional.pad(self.network.encode(query).cpu().float(), (0, 1), value=1)
        flat = pa.array(vectors.numpy().ravel())
        return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]).cast(
            pa.list_(pa.float32())
        )

    def predict(self, batch: pa.RecordBatch) -> pa.Array:
        """Expected value of each row, or of each held entry of profiles, double."""
        sizes, dtype = self.network.sizes, next(self.network.parameters()).dtype
        rows = self.batches.of(columns_of(batch, sizes.fields))
        rows = rows.within(sizes.num_users, sizes.num_items)
        limit = self.batches.rows_at_once(CELLS, len(rows) or 1, sizes.num_users, sizes.num_items)
        predicted = [
            self.network.predict(part.to(self.device, dtype))[self.network.task]
            .double()
            .cpu()
            .numpy()
            for part in ([rows] if limit >= len(rows) else rows.split(limit))
        ]
        return pa.array(np.concatenate(predicted) if predicted else np.zeros(0))

"""The scorer of an index of kind `shown`: the places of the list that was shown decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.queries import CANDIDATES, OF_CANDIDATES, Scorer


class ShownScorer(Scorer):
    """Candidates come in the order in which they were shown: their score falls by one a place."""

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        facts = indices.facts(folder)
        self.model, self.num_items, self.facts = facts.model, facts.num_items, facts
        popularity = indices.array(folder, facts.fallback_scores, (facts.num_items + 1,))
        self.trees = indices.trees(folder, facts) if facts.trees else None
        super().__init__(k, seed, popularity)

    def _cold(self, batch: pa.RecordBatch, user: Tensor, history: Ragged) -> Tensor:
        """All where there is no list: then there is no order either."""
        return torch.full((len(user),), CANDIDATES not in batch.schema.names)

    def _score(
        self, batch: pa.RecordBatch, rows: Tensor, user: Tensor, history: Ragged, items: Tensor
    ) -> Tensor:
        if self.facts.fields:
            return self._of_fields(batch, rows, items.shape[1])
        scores = -torch.arange(items.shape[1], dtype=torch.float32).repeat(len(items), 1)
        if self.facts.lift:
            filled = history.offsets.diff() > 0
            last = torch.zeros(len(items), dtype=items.dtype)
            last[filled] = history.values[history.offsets[1:][filled] - 1].to(items.dtype)
            scores[items == last[:, None]] = 1.0
        return scores

    def _of_fields(self, batch: pa.RecordBatch, rows: Tensor, width: int) -> Tensor:
        """float32 (b, width): of each candidate, by its fields."""
        lengths = torch.from_numpy(batch.column(CANDIDATES).value_lengths().to_numpy().copy())
        fields = [
            ragged(batch.column(OF_CANDIDATES + name), np.float32).values
            for name in self.facts.fields
        ]
        scores = torch.zeros(len(lengths), width)
        scores[torch.arange(width) < lengths[:, None]] = self._values(torch.stack(fields, dim=1))
        return scores[rows]

    def _values(self, fields: Tensor) -> Tensor:
        """float32 (E,) of fields (E, F)."""
        if self.trees is None:
            return fields @ torch.tensor(self.facts.weights)
        if not len(fields):
            return torch.zeros(0)
        # One thread: a worker has one
        return torch.from_numpy(self.trees.predict(fields.numpy(), num_threads=1)).float()

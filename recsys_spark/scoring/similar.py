"""Items like an item: nearest by the cosine of the model's item vectors, or, of a model without
vectors, the list of a history that holds this item alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.scoring import anonymous, lists
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.index_scorers import DotScorer, SparseScorer
from recsys_spark.scoring.model_scorer import ModelScorer
from recsys_spark.scoring.queries import COLD, Scorer
from recsys_spark.scoring.scorer import load

AT_ONCE = 1024  # items of a batch


def vectors(scorer: Scorer) -> Tensor | None:
    """The model's item vectors, float32 (I + 1, D), row 0 zero; None where it has none, or the same
    vector for every query, so that they say what is popular and not what is alike.
    """
    if isinstance(scorer, DotScorer):
        return None if scorer.facts.constant else scorer.items
    if isinstance(scorer, ModelScorer):
        index = scorer.network.index()
        return None if index is None else index.items.detach().cpu().float()
    return None


def possible(scorer: Scorer) -> bool:
    """Whether the model knows an item by itself: by its vector, or as a history."""
    if vectors(scorer) is not None:
        return True
    if isinstance(scorer, ModelScorer):
        return scorer.batches.by_history
    return not isinstance(scorer, SparseScorer) or scorer.history or not scorer.own_rows


class Similar:
    """The k nearest of each item, itself left out. Ties by a hash of seed and item, as of lists."""

    def __init__(self, folder: str | Path, k: int, seed: int) -> None:
        self.scorer = load(folder, k=k, seed=seed)
        self.k, self.seed, self.own = k, seed, anonymous.columns(Path(folder))
        items = vectors(self.scorer)
        self.items = None if items is None else torch.nn.functional.normalize(items, dim=1)
        self.index = None if self.items is None else DotIndex(self.items, None, self.scorer.model)

    def rank(self, items: list[int]) -> pa.RecordBatch:
        """Columns item_idx list<int32>, score list<float32> and cold bool, a row an item. Cold: the
        model knows nothing of the item, and its list is empty.
        """
        if self.items is None or self.index is None:
            alone = [[item] for item in items]
            ranked = self.scorer.rank(anonymous.batch(alone, alone, self.own))
            return ranked.select([c.ITEM_IDX, c.SCORE, COLD])
        numbers = torch.tensor(items)
        itself = Ragged(torch.arange(len(items) + 1), numbers.int())
        best = self.index.top_k(self.items[numbers], numbers, itself, self.k, self.seed)
        cold = ~self.items[numbers].any(dim=1)  # an item without events has no vector
        return pa.RecordBatch.from_arrays(
            [*lists.columns(*best), pa.array(cold.numpy())], names=[c.ITEM_IDX, c.SCORE, COLD]
        )


_loaded: dict[tuple[str, int, int, int], Similar] = {}  # of this worker process


def similar_batches(
    folder: str, k: int, seed: int, written: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: batches of `of_idx`, an item each -> of_idx, item_idx, score and cold.
    written: time of the model, so that one that was replaced is loaded again.
    """
    key = (folder, k, seed, written)
    if key not in _loaded:
        _loaded.clear()
        torch.set_num_threads(1)
        _loaded[key] = Similar(folder, k, seed)
    with torch.inference_mode():
        for batch in batches:
            for start in range(0, batch.num_rows, AT_ONCE):
                of = batch.slice(start, AT_ONCE).column(0)
                ranked = _loaded[key].rank(of.to_pylist())
                yield pa.RecordBatch.from_arrays(
                    [of, *ranked.columns], names=[batch.schema.names[0], *ranked.schema.names]
                )

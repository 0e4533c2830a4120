"""Loads the scorer (queries.py) of a folder that a training step wrote, for models and baselines
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recsys_spark.core.errors import CheckpointError
from recsys_spark.models import store
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.index_scorers import DotScorer, SparseScorer
from recsys_spark.scoring.model_scorer import ModelScorer
from recsys_spark.scoring.queries import Scorer
from recsys_spark.scoring.session_scorer import SessionScorer
from recsys_spark.scoring.shown_scorer import ShownScorer


def load(
    path: str | Path, *, k: int, seed: int, device: str = "cpu", fallback: str | Path | None = None
) -> Scorer:
    """The scorer of an index folder (index.json) or of a checkpoint folder (model.json).

    fallback: a .npy of scores (I + 1,) for cold queries where the folder has none.
    Raises CheckpointError.
    """
    folder = Path(path)
    if (folder / indices.FILE).exists():
        facts = indices.facts(folder)
        kinds: dict[str, Callable[..., Scorer]] = {
            "dot": DotScorer,
            "sparse": SparseScorer,
            "sessions": SessionScorer,
            "shown": ShownScorer,
        }
        kind = kinds[facts.kind]
        return kind(folder, k, seed, _fallback(fallback, facts.num_items))
    if (folder / store.FACTS).exists():
        model = store.load(folder)
        name, popularity = (
            store.read_facts(folder).model,
            _fallback(fallback, model.sizes.num_items),
        )
        return ModelScorer(
            model,
            name,
            k,
            seed,
            torch.zeros(model.sizes.num_items + 1) if popularity is None else popularity,
            device,
        )
    raise CheckpointError(
        str(folder),
        found="neither index.json nor model.json",
        expected="an index or a checkpoint",
        remedy="run the training step again",
    )


def _fallback(path: str | Path | None, num_items: int) -> Tensor | None:
    if path is None:
        return None
    return indices.array(Path(path).parent, Path(path).name, (num_items + 1,))

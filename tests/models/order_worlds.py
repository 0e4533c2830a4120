"""Planted histories in which order says what comes next, and lists of what a model puts first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recsys_spark.models.base import Model
from tests.models import worlds
from tests.shardsets import Events


def events(histories: Sequence[Sequence[int]]) -> Events:
    """Of users 1, 2, ..."""
    lengths = [len(history) for history in histories]
    user = np.repeat(np.arange(1, len(histories) + 1, dtype=np.int32), lengths)
    items = np.concatenate([np.asarray(history, np.int32) for history in histories])
    return Events(user, items, np.ones(len(items), np.float32))


def first(model: Model, users: Sequence[int], histories: Sequence[Sequence[int]]) -> np.ndarray:
    """The item that is ranked first for each, (B,)."""
    query = worlds.Query(
        torch.tensor(users, dtype=torch.int32), worlds.ragged([list(items) for items in histories])
    )
    return 1 + model.score(query)[:, 1:].detach().numpy().argmax(1)

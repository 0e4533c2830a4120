"""Embedding tables over dense indices."""

from __future__ import annotations

import torch
from torch import nn


def table(rows: int, dim: int, std: float) -> nn.Embedding:
    """(rows + 1, dim), drawn from N(0, std); row 0 (padding, out-of-vocabulary) is zero and gets no gradient."""
    made = nn.Embedding(rows + 1, dim, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(made.weight, std=std)
        made.weight[0] = 0.0
    return made

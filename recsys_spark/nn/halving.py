"""A tower of ReLU layers over the embeddings of a user and an item, side by side."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 1 << 21  # numbers of a hidden layer held at once while the catalogue is scored


class HalvingTower(nn.ModuleList):
    """Layers each half as wide as the one before, `top` wide at the end: two layers are [4 top, 2 top, top]. Drawn by `glorot`."""

    def __init__(self, top: int, num_layers: int) -> None:
        super().__init__(nn.Linear(top * 2**n, top * 2 ** (n - 1)) for n in range(num_layers, 0, -1))

    def forward(self, z: Tensor) -> Tensor:
        """(..., user and item) -> (..., top)"""
        for layer in self:
            z = F.relu(layer(z))
        return z

    def add_pairs(self, scores: Tensor, p: Tensor, q: Tensor, head: Tensor) -> Tensor:
        """scores (B, C) plus head (top,) times the tower of every user p (B, W) with the items q ([B,] C, W), in place.

        The first layer is linear in user plus item: each part is computed once, and added by pairs.
        """
        first, *rest = self
        w_user, w_item = first.get_parameter("weight").chunk(2, 1)
        p, q = p @ w_user.T + first.get_parameter("bias"), q @ w_item.T  # (B, 2 top), ([B,] C, 2 top)
        step = max(1, BLOCK // max(1, p.numel()))
        for start in range(0, scores.shape[1], step):
            z = F.relu(p[:, None] + q[..., start : start + step, :])  # (B, c, 2 top)
            for layer in rest:
                z = F.relu(layer(z))
            scores[:, start : start + step] += z @ head
        return scores


def glorot(layers: Iterable[nn.Module]) -> None:
    """Weights from Glorot's uniform distribution, biases zero."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)

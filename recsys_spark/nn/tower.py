"""Multilayer perceptrons whose input consists of a user's part, an item's part and optionally an
event's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.nn.blockwise import blockwise
from recsys_spark.nn.tables import Distinct


class Tower(nn.Module):
    """ReLU layers of these widths and an output of one number. parts: widths of the input of the
    user, the item and the event, in that order.
    """

    def __init__(self, parts: Sequence[int], widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.parts, self.dropout = list(parts), dropout
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs)
            for inputs, outputs in zip([sum(parts), *widths], widths, strict=False)
        )
        self.output = nn.Linear(widths[-1], 1, bias=False)
        glorot([*self.layers, self.output])

    def forward(self, x: Tensor, draw: Callable[[str, int], Tensor] | None = None) -> Tensor:
        """(B, user + item + event) -> (B,). draw(name, width): uniform numbers (B, width) of the
        rows, for dropout; None: no dropout, outside training.
        """
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if self.dropout and draw is not None:
                x = (
                    x
                    * (draw(f"dropout.{number}", x.shape[1]) >= self.dropout)
                    / (1.0 - self.dropout)
                )
        return self.output(x).squeeze(-1)

    def pairs(self, user: Tensor, item: Tensor) -> Tensor:
        """(B, user), ([B,] C, item) -> (B, C), for an unknown event: zeros, which add nothing."""
        return over_pairs(self.layers, user, item, self.output.weight[0])


class HalvingTower(nn.ModuleList):
    """ReLU layers, each half as wide as the one before; the last is `top` wide: two layers are [4
    top, 2 top, top]. Weights by `glorot`.
    """

    def __init__(self, top: int, num_layers: int) -> None:
        super().__init__(
            nn.Linear(top * 2**n, top * 2 ** (n - 1)) for n in range(num_layers, 0, -1)
        )

    def forward(self, user: Tensor, item: Tensor, users: Distinct, items: Distinct) -> Tensor:
        """(B, top), from the distinct users (U', W) and items (I', W) of a batch."""
        first, *rest = self
        user, item = _first(first, user, item)
        z = F.relu(users.spread(user) + items.spread(item))
        for layer in rest:
            z = F.relu(layer(z))
        return z


def over_pairs(layers: nn.ModuleList, user: Tensor, item: Tensor, head: Tensor) -> Tensor:
    """(B, C): head (H,) times the output of the ReLU layers for every user (B, user) with the items
    ([B,] C, item).
    """
    first, *rest = layers
    user, item = _first(first, user, item)  # (B, W), ([B,] C, W)

    def scores(items: slice) -> Tensor:
        z = F.relu(user[:, None] + item[..., items, :])  # (B, c, W)
        for layer in rest:
            z = F.relu(layer(z))
        return z @ head

    return blockwise(user, item.shape[-2], user.shape[-1], scores)


def _first(layer: nn.Module, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions (..., W) of users (..., user) and items (..., item) to the first layer: it is
    linear in its parts, so each is computed once and then added for every pair.
    """
    assert isinstance(layer, nn.Linear)
    user_weight, item_weight, _ = layer.weight.tensor_split(
        [user.shape[-1], user.shape[-1] + item.shape[-1]], 1
    )
    return F.linear(user, user_weight, layer.bias), F.linear(item, item_weight)


def glorot(layers: Iterable[nn.Module]) -> None:
    """Weights from Glorot's uniform distribution, biases zero."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

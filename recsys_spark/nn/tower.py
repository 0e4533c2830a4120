"""A multilayer perceptron whose output is one number, over an input that consists of a user's part, an item's part and an event's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK = 1 << 21  # numbers of a hidden layer held at once while a catalogue is scored


class Tower(nn.Module):
    """ReLU layers of these widths. parts: numbers of the input that are the user's, the item's and the event's, in that order."""

    def __init__(self, parts: Sequence[int], widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.parts, self.dropout = list(parts), dropout
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip([sum(parts), *widths], widths, strict=False))
        self.output = nn.Linear(widths[-1], 1, bias=False)
        for layer in [*self.layers, self.output]:
            nn.init.xavier_uniform_(layer.weight)
        for layer in self.layers:
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor, draw: Callable[[str, int], Tensor] | None = None) -> Tensor:
        """(B, user + item + event) -> (B,). draw(name, width): uniform numbers (B, width) of the rows, for dropout; None: not training."""
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if self.dropout and draw is not None:
                x = x * (draw(f"dropout.{number}", x.shape[1]) >= self.dropout) / (1.0 - self.dropout)
        return self.output(x).squeeze(-1)

    def pairs(self, user: Tensor, item: Tensor) -> Tensor:
        """(B, user), ([B,] C, item) -> (B, C), of an event of which nothing is known: zeros, which add nothing.

        The first layer is linear in its parts: what a user and an item give to it is computed once, and added by pairs.
        """
        first, *rest = self.layers
        of_user, of_item, _ = first.get_parameter("weight").split(self.parts, 1)
        user, item = user @ of_user.T + first.bias, item @ of_item.T  # (B, H), ([B,] C, H)
        step = max(1, _BLOCK // max(1, user.numel()))
        made = []
        for start in range(0, item.shape[-2], step):
            z = F.relu(user[:, None] + item[..., start : start + step, :])  # (B, c, H)
            for layer in rest:
                z = F.relu(layer(z))
            made.append(self.output(z).squeeze(-1))
        return torch.cat(made, 1)

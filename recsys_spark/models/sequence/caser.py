"""Convolutions over the last items of a history, taken as an image of time and factors, beside the
user's own vector.

Paper: Jiaxi Tang, Ke Wang. Personalized Top-N Sequential Recommendation via Convolutional Sequence
Embedding. WSDM 2018, arXiv:1809.07426 (sections 3.1 to 3.4), and its authors' code: horizontal
filters of every height up to `last` with a maximum over time, vertical ones without an activation,
one dense layer, the user joined before the output, whose table is twice as wide and has a bias; the
next `ahead` items are targets (L and T there).
Differs: windows are packed, and those shorter than `last` are filled with zeros at their start
wherever they occur; negatives weigh as in the paper, where the authors' code takes their mean; the
standard deviation of the tables at the start is one setting for all; weight decay is the job's.

For: the next events where patterns of the last few, also with gaps, say most
Needs: events in their true order, of hundreds of thousands at least
Cold: a new user is ranked by the last items alone; new items are never found
Not for: what happened more than `last` events ago; a first model: `markov` takes seconds
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.sequence._next_item import Drop, NextItem
from recsys_spark.nn import profiles
from recsys_spark.nn.tables import Table, table
from recsys_spark.nn.tower import glorot
from recsys_spark.nn.windows import Places


class Caser(NextItem):
    class Config(NextItem.Config):
        dim: int = Field(50, ge=1)  # of the items' vectors, the users' and the dense layer's
        loss: Literal["softmax", "sampled", "bce", "gbce", "bpr"] = "bce"
        num_negatives: int = Field(3, ge=0)
        last: int = Field(5, ge=1)  # events that a prediction reads
        ahead: int = Field(3, ge=1)  # events after them that it is trained to predict
        horizontal: int = Field(16, ge=1)  # filters of each height
        vertical: int = Field(4, ge=1)  # filters over all of the last events
        dropout: float = Field(0.5, ge=0, lt=1)  # of what the filters find
        init_std: float = Field(0.02, gt=0)  # of the tables

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim, heights = config.dim, range(1, config.last + 1)
        # A filter over h events, as a linear map of their vectors: half the time of a convolution
        self.across = nn.ModuleList(nn.Linear(h * dim, config.horizontal) for h in heights)
        self.down = nn.Linear(config.last, config.vertical)
        found = config.vertical * dim + config.horizontal * config.last
        self.dense = nn.Linear(found, dim)
        glorot([*self.across, self.down, self.dense])
        self.user = table(sizes.num_users, dim, config.init_std)
        self.predicted = table(sizes.num_items, 2 * dim, config.init_std)
        self.predicted_bias = table(sizes.num_items, 1, 0.0)

    @property
    def output(self) -> Table:
        return self.predicted

    @property
    def bias(self) -> Table:
        return self.predicted_bias

    @property
    def reach(self) -> int:
        return min(int(self.config.last), int(self.config.length))

    def targets(self, batch: Windows, ctx: Context) -> tuple[Tensor, Tensor]:
        """Of each state the next `ahead` events of its row that are targets at all."""
        state, target = super().targets(batch, ctx)
        row, back = profiles.rows(batch.items), torch.arange(self.config.ahead).to(state.device)
        state = state[:, None] - back  # (P, ahead)
        within = (state >= 0) & (row[state.clamp(min=0)] == row[target][:, None])
        return state[within], target[:, None].expand_as(state)[within]

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        dim = self.config.dim
        image = self.item(Places(items).newest(items.values, self.config.last))  # (E, L, D)
        flat = image.flatten(1)
        # Of each height the places where its filters fit: (E, L - h + 1, h * D)
        slides = (flat.unfold(1, h * dim, dim) for h in range(1, self.config.last + 1))
        across = [
            F.relu(filters(slide)).amax(1)
            for filters, slide in zip(self.across, slides, strict=True)
        ]
        down = self.down(image.transpose(1, 2)).flatten(1)  # (E, D * vertical)
        return F.relu(self.dense(drop("dropout", torch.cat([down, *across], 1))))

    def queries(self, states: Tensor, user: Tensor, age: Tensor) -> Tensor:
        return torch.cat([states, self.user(user)], 1)

"""Candidates by a network over the mean of the items that a user met last, in no order.

Paper: Paul Covington, Jay Adams, Emre Sargin. Deep Neural Networks for YouTube Recommendations.
RecSys 2016, doi:10.1145/2959100.2959190 (section 3: averaged watches, a tower of ReLU layers whose
output is the user's vector, sampled softmax with importance weights, example age that is zero when
lists are made, as many examples of every user, the next watch from those before it; 3.4).
Differs: of the features, watches and example age alone: no searches, no demography; the age is the
log of the days from an example to the last event, and known where the shards were exported with
`ages: true`; `examples` are drawn anew in each step of a row's targets, so that users count alike
where `row_targets` is above the longest history; the last layer is linear, for a user's vector of
units that are all off would never change again.

For: fetching candidates from large catalogues, where the set of what was met last says enough
Needs: events in their true order; for `age` their times
Cold: a new user with a history is ranked at once; new items are never found
Not for: the next event where order matters, for it knows of none: `markov`, sasrec; the last list
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.models.base import Context, Histories, Sizes
from recsys_spark.models.sequence._next_item import Drop, NextItem
from recsys_spark.nn import profiles
from recsys_spark.nn.tables import Table, table
from recsys_spark.nn.tower import glorot
from recsys_spark.nn.windows import Places


class YoutubeCandidates(NextItem):
    class Config(NextItem.Config):
        loss: Literal["softmax", "sampled", "bce", "gbce", "bpr"] = "sampled"
        shared_negatives: int = Field(256, ge=0)
        power: float = Field(0.5, ge=0, le=1)
        last: int = Field(50, ge=1)  # events whose items are averaged
        layers: tuple[int, ...] = (128,)  # widths of the tower before its last layer, `dim`
        age: bool = False  # example age as an input; the shards need `ages`
        examples: int = Field(0, ge=0)  # targets of a row in a step; 0: all
        dropout: float = Field(0.0, ge=0, lt=1)  # of items as they are read
        init_std: float = Field(0.1, gt=0)  # of the tables

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        widths = [config.dim + config.age, *config.layers, config.dim]
        self.tower = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        glorot(self.tower)
        self.predicted = table(sizes.num_items, config.dim, config.init_std)

    @property
    def output(self) -> Table:
        return self.predicted

    @property
    def reach(self) -> int:
        return min(int(self.config.last), int(self.config.length))

    def histories(self) -> Histories:
        return Histories(self.config.length, ages=self.config.age)

    def targets(self, batch: Windows, ctx: Context) -> tuple[Tensor, Tensor]:
        """Of each row `examples` at random."""
        state, target = super().targets(batch, ctx)
        if not self.config.examples:
            return state, target
        row = profiles.rows(batch.items)[target]
        drawn = ctx.uniform("examples", batch.entry_row[target], 1)[:, 0]
        order = (row + drawn.double()).argsort()
        place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        chosen = order[place < self.config.examples].sort().values
        return state[chosen], target[chosen]

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        read = drop("dropout.items", self.item(items.values))
        return Places(items).mean(read, self.config.last)

    def queries(self, states: Tensor, user: Tensor, age: Tensor) -> Tensor:
        x = states
        if self.config.age:
            x = torch.cat([x, age.clamp(min=0).log1p()[:, None].to(x.dtype)], 1)
        *hidden, last = self.tower
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)

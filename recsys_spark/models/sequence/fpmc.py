"""A factorized Markov chain and a matrix factorization together: a user's taste, and what follows
the last items.

Paper: Steffen Rendle, Christoph Freudenthaler, Lars Schmidt-Thieme. Factorizing Personalized Markov
Chains for Next-Basket Recommendation. WWW 2010, doi:10.1145/1772690.1772773 (section 4; the factors
of user and last item are left out, as there, for they change no order); `loss: bpr` is its S-BPR.
Differs: the last basket is the last `basket` events; every event is a target once an epoch, with
its negatives, instead of triples drawn with replacement; weight decay of the job's optimiser takes
the place of a regulariser for each kind of factor.

For: the next event where both the last item and a lasting taste matter; `loss: softmax` on up to
    some ten thousand items
Needs: events in their true order
Cold: a new user is ranked by the last items alone; new items are never found
Not for: small sets: `markov` counts its transitions in seconds
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.models.base import Sizes
from recsys_spark.models.sequence._next_item import Drop, NextItem
from recsys_spark.nn.tables import Table, table
from recsys_spark.nn.windows import Places


class Fpmc(NextItem):
    class Config(NextItem.Config):
        loss: Literal["softmax", "sampled", "bce", "gbce", "bpr"] = "bpr"
        dropout: float = Field(0.0, ge=0, lt=1)  # of the last items
        basket: int = Field(1, ge=1)  # last events of the history, which count alike
        init_std: float = Field(0.1, gt=0)  # of the tables

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)  # `item`: the items as they come last, V^{L,I}
        self.user = table(sizes.num_users, config.dim, config.init_std)  # V^{U,I}
        # V^{I,U} and V^{I,L}, side by side
        self.predicted = table(sizes.num_items, 2 * config.dim, config.init_std)

    @property
    def output(self) -> Table:
        return self.predicted

    @property
    def reach(self) -> int:
        return min(int(self.config.basket), int(self.config.length))

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        basket = Places(items).newest(items.values, self.config.basket)  # (E, basket)
        filled = (basket > 0).sum(1, keepdim=True).clamp(min=1)
        return drop("dropout.items", self.item(basket).sum(1) / filled)

    def queries(self, states: Tensor, user: Tensor, age: Tensor) -> Tensor:
        return torch.cat([self.user(user), states], 1)

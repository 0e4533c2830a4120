"""A multilayer perceptron over the embeddings of a user and an item.

Paper: Xiangnan He, Lizi Liao, Hanwang Zhang, Liqiang Nie, Xia Hu, Tat-Seng Chua. Neural
Collaborative Filtering. WWW 2017, arXiv:1708.05031 (equations 7 and 10).
Differs: dense layers start from Glorot's uniform distribution (the paper says N(0, 0.01) for all,
its code does not) and embeddings by default from N(0, 0.03), because with 0.01 the tower learns
slowly to distinguish users; an optional L2 on the embedding rows in the batch, none on the layers.
A user or item absent from training keeps its initial embedding, close to zero, and index 0 is zero:
the scores of such a user depend on the items alone.

For: comparison with the literature; the half of neumf that is a perceptron.
Needs: events; negatives are drawn.
Cold: a user without training events gets the fallback; new items are never found.
Not for: large catalogues: a full ranking is a pass of the network for every pair.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._ncf import Ncf
from recsys_spark.nn.tables import distinct, table
from recsys_spark.nn.tower import HalvingTower, glorot, over_pairs


class NcfMlp(Ncf):
    class Config(Ncf.Config):
        # layers of the tower, each half as wide as the one before; the last has width k: 2 layers
        # are [4k, 2k, k]
        num_layers: int = Field(2, ge=1)
        init_std: float = Field(0.03, gt=0)  # standard deviation of the embeddings at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        width = config.dim * 2 ** (config.num_layers - 1)
        self.user = table(sizes.num_users, width, config.init_std)
        self.item = table(sizes.num_items, width, config.init_std)
        self.tower = HalvingTower(config.dim, config.num_layers)
        self.output = nn.Linear(config.dim, 1)
        glorot([*self.tower, self.output])

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        users, items = distinct(batch.user), distinct(batch.item)
        p, q = self.user(users.each), self.item(items.each)  # (U', 2k), (I', 2k)
        # Equation 10 before its sigmoid, (B,)
        logit = self.output(self.tower(p, q, users, items)).squeeze(1)
        return self.output_of(logit, (users, p), (items, q))

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        # (B, 2k), ([B,] C, 2k)
        p = self.user(query.user)
        q = self.item.weight if items is None else self.item(items)
        return over_pairs(self.tower, p, q, self.output.weight[0]) + self.output.bias

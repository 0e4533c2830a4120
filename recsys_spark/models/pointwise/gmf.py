"""Generalised matrix factorization: a product of embeddings, element by element, whose weights in
the output are learned.

Paper: Xiangnan He, Lizi Liao, Hanwang Zhang, Liqiang Nie, Xia Hu, Tat-Seng Chua. Neural
Collaborative Filtering. WWW 2017, arXiv:1708.05031 (equations 7 to 9).
Differs: the output weights start from Glorot's uniform distribution (the paper says N(0, 0.01) for
all, its code does not) and have a bias beside them, as in the authors' code; an optional L2 on the
embedding rows in the batch. A user or item absent from training keeps its initial embedding, close
to zero, and index 0 is zero: such a user gets equal scores for all items.

For: comparison with the literature; the half of neumf that multiplies.
Needs: events; negatives are drawn.
Cold: a user without training events gets the fallback; new items are never found.
Not for: use: bpr_mf and ials rank better.
"""

from __future__ import annotations

from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models.base import Context, ItemVectors, Sizes
from recsys_spark.models.pointwise._ncf import Ncf
from recsys_spark.nn.tables import Distinct, products, table
from recsys_spark.nn.tower import glorot


class Gmf(Ncf):
    def __init__(self, config: Ncf.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.user = table(sizes.num_users, config.dim, config.init_std)  # p
        self.item = table(sizes.num_items, config.dim, config.init_std)  # q
        self.output = nn.Linear(config.dim, 1)  # h
        glorot([self.output])

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        p, q = self.user(batch.user), self.item(batch.item)  # (B, k)
        logit = self.output(p * q).squeeze(1)  # equations 8 and 9, before the sigmoid, (B,)
        return self.output_of(
            logit, (Distinct(batch.user, None), p), (Distinct(batch.item, None), q)
        )

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        q = self.item.weight if items is None else self.item(items)  # ([B,] C, k)
        return products(self.encode(query), q) + self.output.bias

    def index(self) -> ItemVectors:
        return ItemVectors(self.item.weight, self.output.bias.expand(self.sizes.num_items + 1))

    def encode(self, query: Query) -> Tensor:
        return self.user(query.user) * self.output.weight  # (B, k)

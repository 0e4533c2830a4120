"""Users and items as points of one space: a user is nearer to what it met than to what it has not,
by a margin.

Paper: Cheng-Kang Hsieh, Longqi Yang, Yin Cui, Tsung-Yi Lin, Serge Belongie, Deborah Estrin.
Collaborative Metric Learning. WWW 2017, doi:10.1145/3038912.3052639 (sections 3.1, 3.2 and 3.5:
hinge of squared distances, weight by the approximate rank, the unit ball, covariance
regularization), and its authors' code.
Differs: the hinge is that of the nearest of a positive's negatives, as in the code, where the
paper has a sum; the covariance is that of all users and items together, as in the code, so that it
is the same on any number of ranks, and its squares are penalised, as in the paper, where the code
sums the covariances themselves. No network from features of items to their points.

For: rankings whose items and users are also compared with their own kind: near is alike
Needs: events; negatives are drawn
Cold: a user without training events gets the fallback; new items are never found
Not for: large tables: each step passes over all of them; one machine: ials gives more for less
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, ItemVectors, Model, Sizes, Term
from recsys_spark.nn.tables import products, table


class Cml(Model):
    layout = "pairs"
    task = "ranking"
    whole_tables = True  # the covariance is that of all rows

    class Config(Settings):
        dim: int = Field(64, ge=1)  # width of the space
        num_negatives: int = Field(10, ge=1)  # per positive, of which the nearest counts
        margin: float = Field(1.5, gt=0)  # of squared distances, which are 4 at most
        rank_weight: bool = True  # a positive counts more, the more negatives are within the margin
        covariance: float = Field(
            1.0, ge=0
        )  # coefficient of the squared covariances of coordinates
        init_std: float = Field(0.1, gt=0)  # standard deviation of coordinates at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.user = table(sizes.num_users, config.dim, config.init_std)
        self.item = table(sizes.num_items, config.dim, config.init_std)

    def forward(self, batch: Pairs, ctx: Context) -> dict[str, Tensor]:
        """Squared distances: "positive" (B,), "negative" (B, N); "covariance", scalar."""
        user = self.user(batch.user)  # (B, D)
        positive = (user - self.item(batch.item)).square().sum(-1)
        negative = (user[:, None] - self.item(batch.negative)).square().sum(-1)
        output = {"positive": positive, "negative": negative}
        return output | ({"covariance": self._covariance()} if self.config.covariance else {})

    def loss(self, batch: Pairs, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        rows = len(batch)
        short = self.config.margin + output["positive"][:, None] - output["negative"]  # (B, N)
        hinge = F.relu(short.amax(1))
        if self.config.rank_weight:
            impostors = (short > 0).to(hinge.dtype).mean(1)
            hinge = hinge * torch.log1p(impostors * self.sizes.num_items)
        terms = {"hinge": Term(hinge.sum(), rows)}
        if self.config.covariance:
            # The same on every rank: the mean over all rows is the thing itself
            squares = output["covariance"] * rows
            terms["covariance"] = Term(squares, rows, self.config.covariance)
        return terms

    def _covariance(self) -> Tensor:
        """Sum of the squared covariances of different coordinates, over all points."""
        points = torch.cat([self.user.weight[1:], self.item.weight[1:]])
        points = points - points.mean(0)
        covariance = points.T @ points / len(points)
        return covariance.square().sum() - covariance.diagonal().square().sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """Back into the unit ball."""
        for points in (self.user.weight, self.item.weight):
            points.mul_((1.0 / points.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Minus the squared distance, without its term of the user alone, which does not change the
        order.
        """
        vectors, bias = self.index()
        if items is not None:
            vectors, bias = vectors[items], bias[items]
        return products(self.encode(query), vectors) + bias

    def index(self) -> ItemVectors:
        points = self.item.weight
        return ItemVectors(2 * points, -points.square().sum(1))

    def encode(self, query: Query) -> Tensor:
        return self.user(query.user)

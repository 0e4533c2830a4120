"""Matrix factorization with biases.

Paper: Yehuda Koren, Robert Bell, Chris Volinsky. Matrix Factorization Techniques for Recommender
Systems. IEEE Computer 42(8), 2009, doi:10.1109/MC.2009.263 (equations 4 and 5); first in Y. Koren.
Factorization Meets the Neighborhood. KDD 2008, doi:10.1145/1401890.1401944.
Differs: factors and biases have a regulariser each (the paper has one for both); the job's
optimiser over mini-batches takes the place of SGD over single ratings; predictions are clamped to
the range of the training labels; a user or item absent from training adds neither factors nor a
bias, so that its prediction is the mean plus the bias of the other side.

For: ratings: the first network to try.
Needs: rated events.
Cold: a user or item without training events is predicted from the other side alone.
Not for: full rankings, which it is not trained for.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.nn.tables import products, table


class MfBias(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(64, ge=1)  # width of the factors
        # coefficient of the squared norms of the rows in the batch, for each occurrence
        l2_factor: float = Field(0.06, ge=0)
        l2_bias: float = Field(0.01, ge=0)  # the same of the biases
        init_std: float = Field(0.03, gt=0)  # standard deviation of the factors at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # A constant of the training rows, not learned
        self.mean = sizes.statistics.get("label_mean", 0.0)
        self.user = table(sizes.num_users, config.dim, config.init_std)  # p_u
        self.item = table(sizes.num_items, config.dim, config.init_std)  # q_i
        # Biases start at exactly zero and only training changes them: a zero marks a row absent
        # from training.
        self.user_bias = table(sizes.num_users, 1, 0.0)  # b_u
        self.item_bias = table(sizes.num_items, 1, 0.0)  # b_i

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        p, b_u = self._side(self.user, self.user_bias, batch.user, ctx.training)  # (B, D), (B,)
        q, b_i = self._side(self.item, self.item_bias, batch.item, ctx.training)
        rating = self.mean + b_i + b_u + (p * q).sum(-1)  # equation 4, (B,)
        return {
            "rating": rating,
            "norms": (p.square() + q.square()).sum(-1),
            "bias_norms": b_u.square() + b_i.square(),
        }

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        # Equation 5: the sum is over the known ratings, so a row is regularised for each
        # occurrence.
        weight = batch.weight.sum()
        squares = batch.weight * (output["rating"] - batch.label).square()
        return {
            "squared_error": Term(squares.sum(), weight),
            "l2_factor": Term(
                (batch.weight * output["norms"]).sum(), weight, self.config.l2_factor
            ),
            "l2_bias": Term(
                (batch.weight * output["bias_norms"]).sum(), weight, self.config.l2_bias
            ),
        }

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        p, b_u = self._side(self.user, self.user_bias, query.user, training=False)
        items = torch.arange(self.sizes.num_items + 1, device=p.device) if items is None else items
        # ([B,] C, D), ([B,] C)
        q, b_i = self._side(self.item, self.item_bias, items, training=False)
        return self.mean + b_u[:, None] + b_i + products(p, q)  # (B, C)

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

    @staticmethod
    def _side(factors: Any, biases: Any, index: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Factors (..., D) and biases (...) at `index`; outside training, zero factors for rows
        absent from training.
        """
        bias = biases(index)  # (..., 1)
        rows = factors(index)
        return (rows if training else rows * (bias != 0)), bias.squeeze(-1)

"""Matrix factorization by the dot product alone.

Paper: Andriy Mnih, Ruslan Salakhutdinov. Probabilistic Matrix Factorization. NIPS 2007 (equation 4,
    the model of section 2); first as
Simon Funk. Netflix Update: Try This at Home. 2006, sifter.org/~simon/journal/20061211.html.
Differs: a row's regulariser counts for each occurrence (in the paper once, whatever its number of
ratings); one regulariser for both sides; the logistic squashing of the paper's equation 6 is
left out; the job's optimiser over mini-batches takes the place of gradient descent. Labels are
taken as deviations from the training mean unless `centred` is false. Predictions are clamped to the
range of the training labels. Index 0 has no factors: its prediction is the mean. A row absent from
training keeps its initial factors, close to zero.

For: comparison with the literature; mf_bias without biases.
Needs: rated events.
Cold: an unknown user or item gets about the mean.
Not for: use: mf_bias is level with it or better.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.nn.tables import products, table


class MfVanilla(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(64, ge=1)  # width of the factors
        # coefficient of the squared norms of the rows in the batch, for each occurrence
        l2: float = Field(0.06, ge=0)
        # false: the dot product predicts the label itself, and the prediction for a user or item
        # without factors is 0 instead of the mean
        centred: bool = True
        init_std: float = Field(0.03, gt=0)  # standard deviation of the factors at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # A constant of the training rows, not learned
        self.mean = sizes.statistics.get("label_mean", 0.0) if config.centred else 0.0
        self.user = table(sizes.num_users, config.dim, config.init_std)  # U
        self.item = table(sizes.num_items, config.dim, config.init_std)  # V

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        u, v = self.user(batch.user), self.item(batch.item)  # (B, D), (B, D)
        return {"rating": self.mean + (u * v).sum(-1), "norms": (u.square() + v.square()).sum(-1)}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        # Equation 4, over the known ratings alone.
        weight = batch.weight.sum()
        squares = batch.weight * (output["rating"] - batch.label).square()
        return {
            "squared_error": Term(squares.sum(), weight),
            "l2": Term((batch.weight * output["norms"]).sum(), weight, self.config.l2),
        }

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        u = self.user(query.user)
        v = self.item.weight if items is None else self.item(items)  # ([B,] C, D)
        return self.mean + products(u, v)  # (B, C)

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

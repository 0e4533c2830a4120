"""Matrix factorization by the dot product alone.

Paper: Andriy Mnih, Ruslan Salakhutdinov. Probabilistic Matrix Factorization. NIPS 2007 (equation 4, the model of section 2); first as
Simon Funk. Netflix Update: Try This at Home. 2006, sifter.org/~simon/journal/20061211.html.
Differs: a row's regulariser counts each time that it occurs (the paper's once, whatever its number of ratings); one regulariser for both
sides; the logistic squashing of the paper's equation 6 is left out; the job's optimiser over mini-batches takes the place of gradient
descent. Labels are taken as deviations from the training mean unless `centred` is false. Predictions are clamped to the range of the
training labels. Index 0 has no factors: it is predicted the mean. A row that training never met keeps its start, close to zero.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.models.batches import Query, Rows
from recsys_spark.nn.tables import products, table


class MfVanilla(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(64, ge=1)
        l2: float = Field(0.06, ge=0)  # times the squared norms of the rows in the batch, each time they occur
        centred: bool = True  # false: the label itself is the dot product, and a user or item without factors has no mean to fall back on
        init_std: float = Field(0.03, gt=0)

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean = sizes.statistics.get("label_mean", 0.0) if config.centred else 0.0  # a constant of the training rows, not learned
        self.user = table(sizes.num_users, config.dim, config.init_std)  # U
        self.item = table(sizes.num_items, config.dim, config.init_std)  # V

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        u, v = self.user(batch.user), self.item(batch.item)  # (B, D), (B, D)
        return {"rating": self.mean + (u * v).sum(-1), "norms": (u.square() + v.square()).sum(-1)}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        # Equation 4, over the known ratings alone.
        weight = batch.weight.sum()
        squares = batch.weight * (output["rating"] - batch.label).square()
        return {"squared_error": Term(squares.sum(), weight), "l2": Term((batch.weight * output["norms"]).sum(), weight, self.config.l2)}

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        u = self.user(query.user)
        v = self.item.weight if items is None else self.item(items)  # ([B,] C, D)
        return self.mean + products(u, v)  # (B, C)

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

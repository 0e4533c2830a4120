"""Neural network matrix factorization: a network in the place of the dot product, learned at the
same time as the factors.

Paper: Gintare Karolina Dziugaite, Daniel M. Roy. Neural Network Matrix Factorization. 2015,
arXiv:1511.06443 (with K = 1: products of single factors).
Differs: the factors and the network take turns an epoch each, in mini-batches with the job's
optimiser, and `alternating: false` trains both at once; early stopping counts epochs, turns of
either, without a better error. The regulariser counts a row's factors for each
occurrence in a batch (the paper: once each), so its weight differs; a regulariser for the layers
is an option. The output starts at the mean of the training labels; hidden layers start from
Glorot's uniform distribution, four times as wide as it is for tanh, because they are sigmoids.
Predictions are clamped to the range of the training labels. A user or item absent from training
keeps its initial factors, close to zero, and index 0 is zero: the prediction then depends on the
other side alone.

For: comparison with the literature.
Needs: rated events.
Cold: a user or item without training events is predicted from the other side alone.
Not for: use: mf_bias is better and cheaper where both were measured.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Gradient, Model, Sizes, Term
from recsys_spark.nn.blockwise import blockwise
from recsys_spark.nn.tables import table


class Nnmf(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(10, ge=1)  # D: factors that are inputs of the network
        # D': factors whose products, user times item, are inputs of the network
        product_dim: int = Field(60, ge=1)
        hidden_dim: int = Field(50, ge=1)  # width of each hidden layer
        num_layers: int = Field(3, ge=1)  # hidden layers
        # lambda: coefficient of the squared norms of the rows in the batch, for each occurrence
        l2: float = Field(0.1, ge=0)
        # coefficient of the squared norm of the layers' weights; with 0 they can undo l2 by growing
        l2_network: float = Field(0.0, ge=0)
        init_std: float = Field(0.1, gt=0)  # of the factors
        # Factors and network take turns, an epoch each; false: both at once
        alternating: bool = True

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.widths = [config.dim, config.product_dim]
        # U and U' side by side
        self.user = table(sizes.num_users, sum(self.widths), config.init_std)
        self.item = table(sizes.num_items, sum(self.widths), config.init_std)  # V and V'
        self.first = nn.Linear(2 * config.dim + config.product_dim, config.hidden_dim)
        self.hidden = nn.ModuleList(
            nn.Linear(config.hidden_dim, config.hidden_dim) for _ in range(config.num_layers - 1)
        )
        self.output = nn.Linear(config.hidden_dim, 1)
        for layer in self._layers():
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.output else 4.0)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.output.bias, sizes.statistics.get("label_mean", 0.0))

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        user, item = self.user(batch.user), self.item(batch.item)  # (B, D + D')
        (u, u_product), (v, v_product) = user.split(self.widths, 1), item.split(self.widths, 1)
        # F(u, v, u' * v'), (B,)
        rating = self._above(self.first(torch.cat([u, v, u_product * v_product], 1)))
        return {"rating": rating, "norms": (user.square() + item.square()).sum(1)}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        squares = batch.weight * (output["rating"] - batch.label).square()
        terms = {
            "squared_error": Term(squares.sum(), weight),
            "l2": Term((batch.weight * output["norms"]).sum(), weight, self.config.l2),
        }
        if self.config.l2_network:
            layers = torch.stack(
                [layer.get_parameter("weight").square().sum() for layer in self._layers()]
            )
            terms["l2_network"] = Term(weight * layers.sum(), weight, self.config.l2_network)
        return terms

    def phases(self) -> list[Gradient]:
        if not self.config.alternating:
            return super().phases()
        latents = [self.user.weight, self.item.weight]
        network = [weight for layer in self._layers() for weight in layer.parameters()]
        return [
            Gradient(
                "alternating",
                [{"name": "latents", "params": latents}, {"name": "network", "params": network}],
                in_turn=True,
            )
        ]

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """The first layer is the sum of a part of the user, one of the item and one of their
        products; the first two are computed once.
        """
        u, u_product = self.user(query.user).split(self.widths, -1)  # (B, D), (B, D')
        # ([B,] C, D), ([B,] C, D')
        v, v_product = (self.item.weight if items is None else self.item(items)).split(
            self.widths, -1
        )
        user_weight, item_weight, product_weight = self.first.weight.split(
            [self.config.dim, *self.widths], 1
        )
        u, v = (
            (u @ user_weight.T + self.first.bias)[:, None],
            v @ item_weight.T,
        )  # (B, 1, H), ([B,] C, H)

        def scores(block: slice) -> Tensor:
            product = u_product[:, None] * v_product[..., block, :]  # (B, c, D')
            return self._above(u + v[..., block, :] + product @ product_weight.T)

        return blockwise(
            u, v.shape[-2], max(self.config.product_dim, self.config.hidden_dim), scores
        )

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

    def _layers(self) -> list[nn.Linear]:
        return [
            self.first,
            *(layer for layer in self.hidden if isinstance(layer, nn.Linear)),
            self.output,
        ]

    def _above(self, z: Tensor) -> Tensor:
        """Output (...) from the first layer's output (..., H) before its sigmoid."""
        z = z.sigmoid()
        for layer in self.hidden:
            z = layer(z).sigmoid()
        return self.output(z).squeeze(-1)

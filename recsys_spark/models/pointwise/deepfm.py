"""DeepFM: a factorization machine and a multilayer perceptron over the same embeddings, added.

Paper: Huifeng Guo, Ruiming Tang, Yunming Ye, Zhenguo Li, Xiuqiang He. DeepFM: A
Factorization-Machine based Neural Network for CTR Prediction. IJCAI 2017, arXiv:1703.04247
(equations 1 to 4).
Differs: of a list of tags the perceptron sees the mean, the factorization machine each tag; numbers
are features of weight x, without bins; an L2 on the embeddings in the batch in addition to the
paper's dropout; a feature absent from training adds nothing.

For: clicks with many fields and many events.
Needs: labels 0 and 1; fields.
Cold: new users and items are predicted from their fields.
Not for: small sets: fm was better on ML-1M, and is cheaper.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._features import Task, TwoSided
from recsys_spark.models.pointwise.fm import Fm
from recsys_spark.nn.fields import pooled
from recsys_spark.nn.tower import Tower


class Deepfm(Fm):
    task = "click"

    class Config(TwoSided.Config):
        dim: int = Field(16, ge=1)
        l2_factor: float = Field(0.0005, ge=0)
        l2_bias: float = Field(0.0005, ge=0)
        hidden_dim: int = Field(128, ge=1)  # of every layer: the paper's "constant" shape
        num_layers: int = Field(2, ge=1)  # of the perceptron
        dropout: float = Field(0.2, ge=0, lt=1)  # after every layer
        task: Task = "click"

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.widths = {side: self.fields.widths(side) for side in ("user", "item", "event")}
        inputs = [len(widths) * config.dim for widths in self.widths.values()]
        self.tower = Tower(inputs, [config.hidden_dim] * config.num_layers, config.dropout)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        sides = self.sides(batch, ctx.training)
        fields = [
            side.of.spread(pooled(side.found.factors, widths).flatten(1))  # equation 3, (B, F D)
            for side, widths in zip(sides, self.widths.values(), strict=False)
        ]
        fm = self.of_sides(sides)  # equation 2
        deep = self.tower(
            torch.cat(fields, 1),
            (lambda name, width: ctx.uniform(name, batch.row, width)) if ctx.training else None,
        )
        return {**fm, "output": fm["output"] + deep}  # equation 1, (B,)

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        items = self.catalogue(items)
        user = self.table(self.fields.user(query.user), False).factors  # (B, S, D)
        item = self.table(self.fields.item(items), False).factors  # ([B,] C, S, D)
        deep = self.tower.pairs(
            pooled(user, self.widths["user"]).flatten(-2),
            pooled(item, self.widths["item"]).flatten(-2),
        )
        return super().score(query, items) + deep

    def index(self) -> None:
        """None: the scores are not dot products."""

"""Wide & Deep: a linear model over cross products, which memorises, and a multilayer perceptron,
which generalises, trained jointly.

Paper: Heng-Tze Cheng, Levent Koc, Jeremiah Harmsen, and others. Wide & Deep Learning for
Recommender Systems. DLRS 2016, arXiv:1606.07792 (equations 1 to 3). The wide part's L1: H. Brendan
McMahan and others. Ad Click Prediction: a View from the Trenches. KDD 2013,
doi:10.1145/2487575.2488200 (per-coordinate rates of section 3).
Differs: the wide part takes a gradient step of the job's optimiser and then the proximal step of
L1, at AdaGrad's rate of each weight and only where the batch had its feature; McMahan's
FTRL-Proximal keeps the sum of all gradients instead. With `adagrad` as the job's optimiser both
steps have the same rates. Continuous inputs are standardised, not ranked; a cross with tags counts
each combination by the product of their weights; weights do not start from an older model's; in the
deep part a feature absent from training keeps its initial embedding, close to zero.

For: clicks where certain pairs of values matter by themselves (`crosses`).
Needs: labels 0 and 1; fields.
Cold: new users and items are predicted from their fields.
Not for: small sets: fm was better on ML-1M, and is cheaper.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._features import FeatureModel, Task
from recsys_spark.nn.blockwise import blockwise
from recsys_spark.nn.crosses import Crosses, parts
from recsys_spark.nn.fields import Slots, pooled
from recsys_spark.nn.tables import table
from recsys_spark.nn.tower import Tower

SIDES = ("user", "item", "event")


class WideDeep(FeatureModel):
    whole_tables = True  # for l1 and its squared gradients

    class Config(Settings):
        dim: int = Field(16, ge=1)  # of the embeddings
        # width of the first layer; each next layer is half as wide
        hidden_dim: int = Field(128, ge=1)
        num_layers: int = Field(3, ge=1)  # of the deep part
        dropout: float = Field(0.0, ge=0, lt=1)  # after each of them
        crosses: tuple[tuple[str, ...], ...] | None = (
            None  # names of fields, `user`, `item`; null: each category of users with each of items
        )
        wide_lr: float = Field(0.1, gt=0)  # of the wide part; the deep part uses the job's
        l1: float = Field(0.00001, ge=0)  # on the wide part
        # coefficient of the squared norms of the embeddings in the batch, for each occurrence
        l2_factor: float = Field(0.0, ge=0)
        init_std: float = Field(0.03, gt=0)  # standard deviation of the embeddings at the start
        wide: bool = True  # false: the deep part alone
        deep: bool = True  # false: the wide part alone
        task: Task = "click"  # click: labels 0 and 1, through a sigmoid

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.w0 = self.offset()
        self.widths = [self.fields.widths(side) for side in SIDES]
        if config.wide:
            self.linear = table(self.fields.num_features, 1, 0.0)
            self.crosses = Crosses(self.fields, config.crosses)
            for name, weight in self._wide().items():
                self.register_buffer(f"{name}_squares", torch.zeros_like(weight.detach()))
        if config.deep:
            self.table = table(self.fields.num_features, config.dim, config.init_std)
            hidden = [max(1, config.hidden_dim >> layer) for layer in range(config.num_layers)]
            self.tower = Tower(
                [len(widths) * config.dim for widths in self.widths], hidden, config.dropout
            )

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        sides = self.slots(batch)
        output, norms = self.w0.expand(len(batch)), batch.weight.new_zeros(len(batch))
        if self.config.wide:
            row_slots = [Slots(*map(indices.spread, slots)) for indices, slots in sides]
            # Equation 1
            output = output + self.crosses(
                {
                    name: field_slots
                    for side, slots in zip(SIDES, row_slots, strict=False)
                    for name, field_slots in parts(self.fields, side, slots).items()
                }
            )
            for indices, slots in sides:
                output = output + indices.spread(self._linear(slots))
        if self.config.deep:
            fields = []
            for (indices, slots), widths in zip(sides, self.widths, strict=False):
                rows = self.table(slots.feature)  # (R, S, D)
                fields.append(
                    indices.spread(pooled(rows * slots.weight.unsqueeze(-1), widths).flatten(1))
                )
                norms = norms + indices.spread(rows.square().sum((1, 2)))
            drop = (
                (lambda name, width: ctx.uniform(name, batch.row, width)) if ctx.training else None
            )
            output = output + self.tower(torch.cat(fields, 1), drop)  # equation 2
        return {"output": output, "l2_factor": norms}  # equation 3, before its sigmoid

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        user, item = self.fields.user(query.user), self.fields.item(self.catalogue(items))
        scores = self.w0.expand(len(query.user), item.feature.shape[-2])
        if self.config.wide:
            scores = (
                scores
                + self._linear(user)[:, None]
                + self._linear(item)
                + self._crossed(user, item)
            )
        if self.config.deep:
            p, q = (
                pooled(self.table(slots.feature) * slots.weight.unsqueeze(-1), widths).flatten(-2)
                for slots, widths in zip((user, item), self.widths, strict=False)
            )
            scores = scores + self.tower.pairs(p, q)
        return scores

    def after_step(self) -> None:
        """Proximal step of l1 * |w|, with AdaGrad's learning rate for each weight.

        Small weights become exactly zero.
        """
        for name, weight in self._wide().items():
            gradient, squares = weight.grad, self.get_buffer(f"{name}_squares")
            if gradient is None or not self.config.l1:
                continue
            with torch.no_grad():
                squares += gradient.square()
                threshold = (
                    self.config.l1
                    * self.config.wide_lr
                    / (squares.sqrt() + 1e-10)
                    * (gradient != 0)
                )
                weight.copy_(weight.sign() * (weight.abs() - threshold).clamp(min=0.0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        wide = list(self._wide().values())
        deep = [
            weight for weight in self.parameters() if not any(weight is other for other in wide)
        ]
        return [{"params": deep}, *([{"params": wide, "lr": self.config.wide_lr}] if wide else [])]

    def _wide(self) -> dict[str, Tensor]:
        return (
            {"linear": self.linear.weight, "crosses": self.crosses.table.weight}
            if self.config.wide
            else {}
        )

    def _linear(self, slots: Slots) -> Tensor:
        return (self.linear(slots.feature).squeeze(-1) * slots.weight).sum(-1)

    def _crossed(self, user: Slots, item: Slots) -> Tensor:
        """Output of the crosses for every pair, (B, C)."""
        # (B, 1, S)
        user_parts = parts(
            self.fields, "user", Slots(user.feature.unsqueeze(1), user.weight.unsqueeze(1))
        )

        def scores(block: slice) -> Tensor:
            item_slots = Slots(*(part[..., block, :] for part in item))  # ([B,] c, S)
            return self.crosses({**user_parts, **parts(self.fields, "item", item_slots)})

        # Elements per pair: combinations of a user's slots with an item's
        combinations = user.feature.shape[-1] * item.feature.shape[-1]
        return blockwise(user.weight, item.feature.shape[-2], combinations, scores)

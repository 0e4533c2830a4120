"""Factorization machine: a weight for every feature and a product of factors for every pair of features.

Paper: Steffen Rendle. Factorization Machines. ICDM 2010, doi:10.1109/ICDM.2010.127 (equation 1, and lemma 3.1 for its linear time).
Differs: features are the user, the item and their fields as in nn/fields.py; linear weights and factors have a regulariser each, counted
each time that a feature occurs in a batch; the job's optimiser takes the place of SGD; ratings are clamped to the range of the training
labels; a feature that training never met adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.batches import Rows
from recsys_spark.models.pointwise._features import Side, TwoSided, total
from recsys_spark.nn.fields import Embedded, FeatureTable, Slots


class Fm(TwoSided):
    def __init__(self, config: TwoSided.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.w0 = self.offset()
        self.table = FeatureTable(self.fields.num_features, config.dim, config.init_std)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        return self.of_sides(self.sides(batch, ctx.training))

    def of_sides(self, sides: Sequence[Side]) -> dict[str, Tensor]:
        """The output of equation 1, (B,), and the norms: within each side, and in pairs between them."""
        before, *rest = (side.of.spread(side.vector) for side in sides)  # (B, D)
        output = self.w0 + total(sides, lambda side: side.constant)
        for vector in rest:
            output, before = output + (before * vector).sum(-1), before + vector
        return {"output": output, "l2_bias": total(sides, lambda side: side.found.bias_norms),
                "l2_factor": total(sides, lambda side: side.found.norms)}

    def side(self, slots: Slots, training: bool) -> tuple[Tensor, Tensor, Embedded]:
        """What the slots add by themselves and in pairs among themselves; and the sum of their factors, which meets those of others."""
        found = self.table(slots, training)
        total = found.factors.sum(-2)  # (..., D)
        # Lemma 3.1: the sum over pairs is half of the square of the sum less the sum of the squares.
        pairs = 0.5 * (total.square() - found.factors.square().sum(-2)).sum(-1)
        return found.linear.sum(-1) + pairs, total, found

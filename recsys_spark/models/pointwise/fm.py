"""Factorization machine: a weight for every feature and a product of factors for every pair of
features.

Paper: Steffen Rendle. Factorization Machines. ICDM 2010, doi:10.1109/ICDM.2010.127 (equation 1, and
    lemma 3.1 for its linear time).
Differs: features are the user, the item and their fields as in nn/fields.py; linear weights and
factors have a regulariser each, counted for each occurrence of a feature in a batch; the job's
optimiser takes the place of SGD; ratings are clamped to the range of the training labels; a feature
absent from training adds nothing.

For: ratings or clicks with fields of users, items and events.
Needs: rated events, or labels 0 and 1; fields.
Cold: new users and items are predicted from their fields.
Not for: data without fields: it is mf_bias then.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._features import Side, TwoSided, total
from recsys_spark.nn.fields import Embedded, FeatureTable, Slots


class Fm(TwoSided):
    def __init__(self, config: TwoSided.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.w0 = self.offset()
        self.table = FeatureTable(
            self.fields.num_features, config.dim, config.init_std, self.fields.slots
        )

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        return self.of_sides(self.sides(batch, ctx.training))

    def of_sides(self, sides: Sequence[Side]) -> dict[str, Tensor]:
        """The output of equation 1, (B,), and the norms: pairs within each side, and pairs between
        sides.
        """
        summed, *rest = (side.of.spread(side.vector) for side in sides)  # (B, D)
        output = self.w0 + total(sides, lambda side: side.constant)
        for vector in rest:
            output, summed = output + (summed * vector).sum(-1), summed + vector
        return {
            "output": output,
            "l2_bias": total(sides, lambda side: side.found.bias_norms),
            "l2_factor": total(sides, lambda side: side.found.norms),
        }

    def side(self, slots: Slots, training: bool) -> tuple[Tensor, Tensor, Embedded]:
        """The contribution of the slots and of their pairs; and the sum of their factors, for the
        pairs with other sides.
        """
        embedded = self.table(slots, training)
        total = embedded.factors.sum(-2)  # (..., D)
        # Lemma 3.1: the sum over pairs is half of (the square of the sum minus the sum of the
        # squares).
        pairs = 0.5 * (total.square() - embedded.factors.square().sum(-2)).sum(-1)
        return embedded.linear.sum(-1) + pairs, total, embedded

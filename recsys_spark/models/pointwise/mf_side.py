"""Matrix factorization whose factors and biases are sums over an entity and its fields, so that new
entities have some too.

Paper: Tianqi Chen, Weinan Zhang, Qiuxia Lu, Kailong Chen, Zhao Zheng, Yong Yu. SVDFeature: A
Toolkit for Feature-based Collaborative Filtering. Journal of Machine Learning Research 13, 2012,
pages 3619-3622 (equation 1).
Differs: of a list of tags the mean is taken; biases and factors have a regulariser each, counted
for each occurrence of a feature in a batch; the job's optimiser takes the place of SGD; ratings are
clamped to the range of the training labels; the mean of the labels is a constant; a feature absent
from training adds nothing.

For: ratings or clicks where users or items have fields, and new ones come.
Needs: rated events, or labels 0 and 1; fields.
Cold: new users and items are predicted from their fields.
Not for: data without fields: it is mf_bias then.
"""

from __future__ import annotations

from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._features import TwoSided, total
from recsys_spark.nn.fields import FeatureTable


class MfSide(TwoSided):
    def __init__(self, config: TwoSided.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean = self.constant()
        self.table = FeatureTable(
            self.fields.num_features, config.dim, config.init_std, self.fields.slots
        )

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        sides = self.sides(batch, ctx.training)
        # (B, D); events have biases only: the paper's global features
        p, q = (side.of.spread(side.vector) for side in sides[:2])
        # Equation 1, (B,)
        output = self.mean + total(sides, lambda side: side.constant) + (p * q).sum(-1)
        return {
            "output": output,
            "l2_bias": total(sides, lambda side: side.found.bias_norms),
            "l2_factor": total(sides[:2], lambda side: side.found.norms),
        }

    def start(self) -> float:
        return self.mean

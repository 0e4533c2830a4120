"""Matrix factorization whose factors and biases are those of an entity and of its fields together, so that new ones are not unknown.

Paper: Tianqi Chen, Weinan Zhang, Qiuxia Lu, Kailong Chen, Zhao Zheng, Yong Yu. SVDFeature: A Toolkit for Feature-based Collaborative
Filtering. Journal of Machine Learning Research 13, 2012, pages 3619-3622 (equation 1).
Differs: of a list of tags the mean is taken; biases and factors have a regulariser each, counted each time that a feature occurs in a
batch; the job's optimiser takes the place of SGD; ratings are clamped to the range of the training labels; the mean of the labels is a
constant; a feature that training never met adds nothing.
"""

from __future__ import annotations

from torch import Tensor

from recsys_spark.models.base import Context, Rows, Sizes
from recsys_spark.models.pointwise._features import TwoSided
from recsys_spark.nn.fields import FeatureTable


class MfSide(TwoSided):
    def __init__(self, config: TwoSided.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean = self.constant()
        self.table = FeatureTable(self.fields.num_features, config.dim, config.init_std)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        b_u, p, of_user = self.side(self.fields.user(batch.user), ctx.training)  # (B,), (B, D)
        b_i, q, of_item = self.side(self.fields.item(batch.item), ctx.training)
        moment = self.table(self.fields.event(batch.codes, batch.numbers), ctx.training)  # biases alone: the paper's global features
        output = self.mean + moment.linear.sum(-1) + b_u + b_i + (p * q).sum(-1)  # equation 1, (B,)
        return {"output": output, "l2_bias": of_user.bias_norms + of_item.bias_norms + moment.bias_norms,
                "l2_factor": of_user.norms + of_item.norms}

    def start(self) -> float:
        return self.mean

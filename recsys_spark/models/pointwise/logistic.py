"""Logistic regression on user, item and all fields: the linear baseline of click models.

Paper: Matthew Richardson, Ewa Dominowska, Robert Ragno. Predicting Clicks: Estimating the
Click-Through Rate for New Ads. WWW 2007, doi:10.1145/1242572.1242643 (section 4: logistic
regression on the features of an impression).
Differs: features are the user, the item and their fields as they are, one weight each, not the
paper's hand-made ones; the regulariser counts each occurrence of a feature in a batch; the
job's optimiser over mini-batches takes the place of a batch method.

For: the linear point of reference of click models, and weights that can be read.
Needs: labels 0 and 1; fields.
Cold: new users and items are predicted from their fields.
Not for: crossed effects: fm has them at little cost.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise._features import Task, TwoSided, total
from recsys_spark.nn.fields import FeatureTable


class Logistic(TwoSided):
    task = "click"

    class Config(Settings):
        # Of the squared weights of the features in the batch, for each occurrence
        l2_bias: float = Field(0.0005, ge=0)
        task: Task = "click"  # click: labels 0 and 1, through a sigmoid

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.w0 = self.offset()
        self.table = FeatureTable(self.fields.num_features, 0, 1.0, self.fields.slots)  # no factors

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        sides = self.sides(batch, ctx.training)
        return {
            "output": self.w0 + total(sides, lambda side: side.constant),
            "l2_bias": total(sides, lambda side: side.found.bias_norms),
        }

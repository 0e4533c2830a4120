"""Base of the models of neural collaborative filtering: the loss of a positive and its sampled
negatives, and the prediction.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Term
from recsys_spark.nn.tables import Distinct


class Ncf(Model):
    """`forward` returns the `logit` (B,) and, with l2 > 0, the `norms` (B,)."""

    layout = "pointwise"
    task = "ranking"

    class Config(Settings):
        dim: int = Field(8, ge=1)  # k, the predictive factors
        num_negatives: int = Field(4, ge=1)  # per positive, drawn anew in each epoch
        # coefficient of the squared norms of the embedding rows in the batch, for each occurrence
        l2: float = Field(0.0, ge=0)
        init_std: float = Field(0.01, gt=0)  # of the embeddings

    def output_of(self, logit: Tensor, *sides: tuple[Distinct, Tensor]) -> dict[str, Tensor]:
        """Output of `forward`, from the logit (B,) and the rows (R, W) of the distinct users and
        items.
        """
        if not self.config.l2:
            return {"logit": logit}
        norms = [distinct.spread(rows.square().sum(1)) for distinct, rows in sides]
        return {"logit": logit, "norms": torch.stack(norms).sum(0)}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        # Equation 7
        entropy = F.binary_cross_entropy_with_logits(
            output["logit"], batch.label, batch.weight, reduction="sum"
        )
        terms = {"cross_entropy": Term(entropy, weight)}
        if self.config.l2:
            terms["l2"] = Term((batch.weight * output["norms"]).sum(), weight, self.config.l2)
        return terms

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"ranking": self(batch, Context())["logit"].sigmoid()}

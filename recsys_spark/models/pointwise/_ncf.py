"""What the models of neural collaborative filtering share: the loss of a positive and its sampled negatives, and the prediction."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Term
from recsys_spark.models.batches import Rows
from recsys_spark.nn.tables import Distinct


class Ncf(Model):
    """`forward` gives the `logit` (B,) and, where l2 is asked for, the `norms` (B,)."""

    layout = "pointwise"
    task = "ranking"

    class Config(Settings):
        dim: int = Field(8, ge=1)  # k, the predictive factors
        num_negatives: int = Field(4, ge=1)  # per positive, fresh in each epoch
        l2: float = Field(0.0, ge=0)  # times the squared norms of the embedding rows in the batch, each time they occur
        init_std: float = Field(0.01, gt=0)  # of the embeddings

    def output_of(self, logit: Tensor, *sides: tuple[Distinct, Tensor]) -> dict[str, Tensor]:
        """From the logit (B,) and the rows (R, W) of the distinct users and items."""
        if not self.config.l2:
            return {"logit": logit}
        return {"logit": logit, "norms": sum(each.spread(rows.square().sum(1)) for each, rows in sides)}  # type: ignore[dict-item]

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        entropy = F.binary_cross_entropy_with_logits(output["logit"], batch.label, batch.weight, reduction="sum")  # equation 7
        terms = {"cross_entropy": Term(entropy, weight)}
        if self.config.l2:
            terms["l2"] = Term((batch.weight * output["norms"]).sum(), weight, self.config.l2)
        return terms

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"ranking": self(batch, Context())["logit"].sigmoid()}

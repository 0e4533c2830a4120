"""Matrix factorization with an item bias, trained to rank: a user's item above one that the user
has not met.

Paper: Steffen Rendle, Christoph Freudenthaler, Zeno Gantner, Lars Schmidt-Thieme. BPR: Bayesian
Personalized Ranking from Implicit Feedback. UAI 2009, arXiv:1205.2618 (section 4, with the matrix
factorization of 4.3.1). `loss: bce` instead is the dot product of Steffen Rendle, Walid Krichene,
Li Zhang, John Anderson. Neural Collaborative Filtering vs. Matrix Factorization Revisited. RecSys
2020, arXiv:2005.09683 (equations 2 and 4): cross entropy of positives and sampled negatives, with
biases of the user and of the whole.
Differs: every observed pair occurs once per epoch, with its negatives, instead of triples drawn
with replacement; one regulariser for all factors (the first paper allows three) and one for the
biases; the job's optimiser over mini-batches takes the place of SGD over single triples or, for
`bce`, single examples. The item bias is not in the first paper. The second paper's negatives are
`negatives: any`, and its width includes the bias (192 there is 191 here). A user absent from
training keeps its initial factors, close to zero, and index 0 is zero: such a user gets the items
by their bias.

For: rankings trained by gradients on several ranks; `loss: bce` with many negatives is the better
    form.
Needs: events; negatives are drawn.
Cold: a user without training events gets the fallback; new items are never found.
Not for: one machine: ials gives more for less.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, ItemVectors, Model, Sizes, Term
from recsys_spark.nn.tables import Table, few_products, products, table


class BprMf(Model):
    layout = "pairs"
    task = "ranking"

    class Config(Settings):
        dim: int = Field(64, ge=1)  # width of the factors
        loss: Literal["bpr", "bce"] = "bpr"  # over a positive and its negatives
        num_negatives: int = Field(1, ge=1)  # per positive, drawn anew in each epoch
        negatives: Literal["unmet", "any"] = "unmet"  # any: also items that the user met
        # coefficient of the squared norms of the factors in the batch, for each occurrence
        l2: float = Field(0.01, ge=0)
        l2_bias: float = Field(0.0, ge=0)  # the same of the biases
        init_std: float = Field(0.1, gt=0)  # standard deviation of the factors at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.user = table(sizes.num_users, config.dim, config.init_std)  # W
        self.item = table(sizes.num_items, config.dim, config.init_std)  # H
        self.item_bias = table(sizes.num_items, 1, 0.0)
        if config.loss == "bce":  # in a difference of two items these cancel
            self.user_bias = table(sizes.num_users, 1, 0.0)
            self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Pairs, ctx: Context) -> dict[str, Tensor]:
        """x_ui and x_uj: "scores" (B, 1 + N), the positive first. For each regulariser in use, the
        squared norms of the rows: of factors "user" (B,) and "item" (B, 1 + N), of biases
        "user_bias" and "item_bias".
        """
        # (B, 1 + N): one look-up for all
        items = torch.cat([batch.item.unsqueeze(1).long(), batch.negative], 1)
        norms: dict[str, Tensor] = {}

        def look_up(name: str, index: Tensor, l2: float) -> Tensor:
            table: Table = getattr(self, name)
            if not l2:
                return table(index)
            rows, norms[name] = table.with_squares(index)
            return rows

        # (B, D), (B, 1 + N, D)
        p = look_up("user", batch.user, self.config.l2)
        q = look_up("item", items, self.config.l2)
        scores = look_up("item_bias", items, self.config.l2_bias).squeeze(-1) + few_products(p, q)
        if self.config.loss == "bce":
            scores = scores + look_up("user_bias", batch.user, self.config.l2_bias) + self.bias
        return {**norms, "scores": scores}

    def loss(self, batch: Pairs, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        positive, negative = output["scores"][:, :1], output["scores"][:, 1:]
        if self.config.loss == "bpr":
            likelihood = F.logsigmoid(
                positive - negative
            ).sum()  # BPR-OPT: over the triples (u, i, j)
            # numbers of examples that contain the user and the positive
            user_weight = positive_weight = negative.shape[1]
            examples = negative.numel()
        else:
            likelihood = F.logsigmoid(positive).sum() + F.logsigmoid(-negative).sum()
            user_weight = 1 + negative.shape[1]
            positive_weight = 1
            examples = positive.numel() + negative.numel()
        count = positive.new_tensor(examples)
        terms = {self.config.loss: Term(-likelihood, count)}
        for name, kind, coefficient in (
            ("l2", "", self.config.l2),
            ("l2_bias", "_bias", self.config.l2_bias),
        ):
            if coefficient:
                item = output[f"item{kind}"]
                squares = positive_weight * item[:, 0].sum() + item[:, 1:].sum()
                if f"user{kind}" in output:
                    squares = squares + user_weight * output[f"user{kind}"].sum()
                if kind and self.config.loss == "bce":
                    squares = squares + examples * self.bias.square()
                terms[name] = Term(squares, count, coefficient)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """x_ui without its terms of the user alone, which do not change the order."""
        p = self.user(query.user)  # (B, D)
        if items is None:
            return p @ self.item.weight.T + self.item_bias.weight.T  # (B, I + 1)
        q, b = self.item(items), self.item_bias(items).squeeze(-1)  # ([B,] C, D), ([B,] C)
        return products(p, q) + b

    def index(self) -> ItemVectors:
        return ItemVectors(self.item.weight, self.item_bias.weight[:, 0])

    def encode(self, query: Query) -> Tensor:
        return self.user(query.user)  # (B, D)

"""Matrix factorization with an item bias, trained to rank: a user's item above one that the user has not met.

Paper: Steffen Rendle, Christoph Freudenthaler, Zeno Gantner, Lars Schmidt-Thieme. BPR: Bayesian Personalized Ranking from Implicit
Feedback. UAI 2009, arXiv:1205.2618 (section 4, with the matrix factorization of 4.3.1). `loss: bce` instead is the dot product of
Steffen Rendle, Walid Krichene, Li Zhang, John Anderson. Neural Collaborative Filtering vs. Matrix Factorization Revisited. RecSys
2020, arXiv:2005.09683 (equations 2 and 4): cross entropy of positives and sampled negatives, with biases of the user and of the whole.
Differs: every observed pair comes once an epoch, with its negatives, instead of triples drawn with replacement; one regulariser
for all factors (the first paper allows three) and one for the biases; the job's optimiser over mini-batches takes the place of SGD
over single triples or, for `bce`, single examples. The item bias is not in the first paper. The second paper's negatives are
`negatives: any`, and its width counts the bias (192 there is 191 here). A user that training never met keeps its start, close to
zero, and index 0 is zero: such a user gets the items by their bias.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, DotFactors, Model, Pairs, Query, Sizes, Term
from recsys_spark.nn.tables import table


class BprMf(Model):
    layout = "pairs"
    task = "ranking"

    class Config(Settings):
        dim: int = Field(64, ge=1)
        loss: Literal["bpr", "bce"] = "bpr"
        num_negatives: int = Field(1, ge=1)  # per positive, fresh in each epoch
        negatives: Literal["unmet", "any"] = "unmet"  # any: also items that the user met, as they come
        l2: float = Field(0.01, ge=0)  # times the squared norms of the factors drawn, each time they are
        l2_bias: float = Field(0.0, ge=0)
        init_std: float = Field(0.1, gt=0)

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.user = table(sizes.num_users, config.dim, config.init_std)  # W
        self.item = table(sizes.num_items, config.dim, config.init_std)  # H
        self.item_bias = table(sizes.num_items, 1, 0.0)
        if config.loss == "bce":  # in a difference of two items these cancel out
            self.user_bias = table(sizes.num_users, 1, 0.0)
            self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Pairs, ctx: Context) -> dict[str, Tensor]:
        """x_ui "positive" (B, 1), x_uj "negative" (B, N), and the squared norms of all factors and biases drawn, scalars."""
        item = batch.item[:, None]
        p, p_square = self.user.with_square(batch.user)  # (B, D)
        (q, q_square), (q_not, not_square) = self.item.with_square(item), self.item.with_square(batch.negative)  # (B, 1, D), (B, N, D)
        (b, b_square), (b_not, b_not_square) = self.item_bias.with_square(item), self.item_bias.with_square(batch.negative)
        positive, negative = b.squeeze(-1) + _products(p, q), b_not.squeeze(-1) + _products(p, q_not)
        own_square = p.new_zeros(())
        if self.config.loss == "bce":
            own, own_square = self.user_bias.with_square(batch.user)  # (B, 1)
            own_square = own_square + len(own) * self.bias.square()
            positive, negative = positive + own + self.bias, negative + own + self.bias
        return {"positive": positive, "negative": negative, "l2_user": p_square, "l2_positive": q_square, "l2_negative": not_square,
                "l2_bias_user": own_square, "l2_bias_positive": b_square, "l2_bias_negative": b_not_square}

    def loss(self, batch: Pairs, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        positive, negative = output["positive"], output["negative"]
        if self.config.loss == "bpr":
            likelihood = F.logsigmoid(positive - negative).sum()  # BPR-OPT: over the triples (u, i, j)
            of_user = of_positive = negative.shape[1]  # of how many examples each is a part
            examples = negative.numel()
        else:
            likelihood = F.logsigmoid(positive).sum() + F.logsigmoid(-negative).sum()
            of_user, of_positive, examples = 1 + negative.shape[1], 1, positive.numel() + negative.numel()
        count = positive.new_tensor(examples)
        terms = {self.config.loss: Term(-likelihood, count)}
        for name, coefficient in (("l2", self.config.l2), ("l2_bias", self.config.l2_bias)):
            if coefficient:
                squares = of_user * output[f"{name}_user"] + of_positive * output[f"{name}_positive"] + output[f"{name}_negative"]
                terms[name] = Term(squares, count, coefficient)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """x_ui less what it holds of the user alone, which orders nothing."""
        p = self.user(query.user)  # (B, D)
        if items is None:
            return p @ self.item.weight.T + self.item_bias.weight.T  # (B, I + 1)
        q, b = self.item(items), self.item_bias(items).squeeze(-1)  # ([B,] C, D), ([B,] C)
        return (p @ q.T if items.dim() == 1 else _products(p, q)) + b

    def index(self) -> DotFactors:
        return DotFactors(self.user.weight, self.item.weight, self.item_bias.weight[:, 0])


def _products(p: Tensor, q: Tensor) -> Tensor:
    """(B, D), (B, C, D) -> (B, C)"""
    return (p[:, None] * q).sum(-1)


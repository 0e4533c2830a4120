"""Matrix factorization where a user has several taste vectors, weighted by an attention that
depends on the item.

Paper: Maciej Kula. Mixture-of-tastes Models for Representing Users with Diverse Interests.
arXiv:1711.08379, 2017 (the mixture for factorization models).
Differs: trained on ratings with squared error, mean and biases as in mf_bias (the paper ranks
implicit feedback); one regulariser for tastes, attention and items, counted for each occurrence
of a row. Predictions are clamped to the range of the training labels. A user or item absent from
training adds neither factors nor a bias. With one taste it is mf_bias, weight for weight.

For: ratings of users with several tastes.
Needs: rated events.
Cold: a user or item without training events is predicted from the other side alone.
Not for: a first try: it gained nothing over mf_bias where it was measured.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise.mf_bias import MfBias
from recsys_spark.nn.tables import few_products, table


class MfMixture(MfBias):
    class Config(MfBias.Config):
        num_tastes: int = Field(4, ge=1)  # m; 1: mf_bias

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # The tastes after the first, and the attention vectors of all; drawn last, so that with one
        # taste the weights are those of mf_bias
        if config.num_tastes > 1:
            self.more = table(
                sizes.num_users, (config.num_tastes - 1) * config.dim, config.init_std
            )
            self.attention = table(sizes.num_users, config.num_tastes * config.dim, config.init_std)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        (tastes, attention), b_u = self._user(batch.user, ctx.training)  # (B, M, D) both, (B,)
        q, b_i = self._side(self.item, self.item_bias, batch.item, ctx.training)  # (B, D), (B,)
        mixed = mixture(tastes, attention, q[:, None])[:, 0]  # (B,)
        norms = tastes.square().sum((1, 2)) + q.square().sum(-1)
        norms = norms + attention.square().sum((1, 2)) if self.config.num_tastes > 1 else norms
        return {
            "rating": self.mean + b_i + b_u + mixed,
            "norms": norms,
            "bias_norms": b_u.square() + b_i.square(),
        }

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        (tastes, attention), b_u = self._user(query.user, training=False)
        items = (
            torch.arange(self.sizes.num_items + 1, device=tastes.device) if items is None else items
        )
        # ([B,] C, D), ([B,] C)
        q, b_i = self._side(self.item, self.item_bias, items, training=False)
        return self.mean + b_u[:, None] + b_i + mixture(tastes, attention, q)

    def _user(self, user: Tensor, training: bool) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Tastes and attention, (B, M, D) each, and the bias (B,)."""
        p, b_u = self._side(self.user, self.user_bias, user, training)
        shape = (len(user), self.config.num_tastes, self.config.dim)
        if self.config.num_tastes == 1:
            return (p.view(shape), torch.zeros_like(p).view(shape)), b_u
        other_tastes, _ = self._side(self.more, self.user_bias, user, training)
        attention, _ = self._side(self.attention, self.user_bias, user, training)
        return (torch.cat([p, other_tastes], 1).view(shape), attention.view(shape)), b_u


def mixture(tastes: Tensor, attention: Tensor, items: Tensor) -> Tensor:
    """(B, C): sum over m of softmax_m(attention_m . v) * (taste_m . v). tastes, attention (B, M,
    D); items (C, D) or (B, C, D).
    """
    if items.dim() == 3 and items.shape[1] == 1:  # one item with a few tastes: (B, M, 1)
        likes, weights = (
            few_products(items[:, 0], vectors).unsqueeze(-1) for vectors in (tastes, attention)
        )
    elif items.dim() == 2:
        likes, weights = tastes @ items.T, attention @ items.T  # (B, M, C)
    else:
        likes, weights = (
            torch.einsum("bmd,bcd->bmc", vectors, items) for vectors in (tastes, attention)
        )
    return (weights.softmax(1) * likes).sum(1)

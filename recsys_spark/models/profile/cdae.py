"""Collaborative denoising autoencoder: reconstructs a profile from the profile with some items
hidden and a node of the user.

Paper: Yao Wu, Christopher DuBois, Alice X. Zheng, Martin Ester. Collaborative Denoising
Auto-Encoders for Top-N Recommender Systems. WSDM 2016, doi:10.1145/2835776.2835837 (the hidden
layer with mask-out noise, the output layer, and sampled negatives in its loss).
Differs: a drawn negative that is one of the user's items is left out, not drawn again. The node of
a user starts at zero, so the node of a user absent from training (or index 0) adds exactly nothing
and such a user is scored from the history alone. The hidden layer is always a sigmoid, the output
linear before its loss. One regulariser for all weights; those of items count each time they are
drawn.

For: rankings where the user's own node may add to the history.
Needs: events; negatives are drawn.
Cold: a new user with a history is ranked at once, without a node; new items are never found.
Not for: new users alone: multi_dae was better on ML-1M.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.nn import profiles
from recsys_spark.nn.tables import table


class Cdae(Model):
    """The items of a history are distinct; index 0 in it (padding, an item unknown to training) has
    weight 0.
    """

    layout = "profile"
    task = "ranking"
    whole_tables = True

    class Config(Settings):
        hidden_dim: int = Field(50, ge=1)  # hidden units
        # Q: the share of a profile's items hidden from the encoder
        corruption: float = Field(0.2, ge=0, lt=1)
        user_node: bool = True  # false: a plain denoising autoencoder
        loss: Literal["logistic", "square", "pairwise"] = (
            "logistic"  # pairwise: the log loss of a positive above its negatives
        )
        # in the output layer, for each item of the profile, drawn anew in each step
        negatives_per_item: int = Field(5, ge=1)
        # coefficient of the squared norms of the weights used, per output
        l2: float = Field(0.001, ge=0)
        init_std: float = Field(0.1, gt=0)  # standard deviation of the weights at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.first = table(sizes.num_items, config.hidden_dim, config.init_std)  # W
        self.last = table(sizes.num_items, config.hidden_dim, config.init_std)  # W'
        self.last_bias = table(sizes.num_items, 1, 0.0)  # b'
        self.first_bias = nn.Parameter(torch.zeros(config.hidden_dim))  # b
        if config.user_node:
            self.user = table(sizes.num_users, config.hidden_dim, 0.0)  # V

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        """Outputs at the profile's items, "positive" (E,), and at the drawn ones, "negative" (E,
        N); "unmet": 1 for the drawn items that count.
        """
        # (entries,)
        keep = profiles.dropout(
            batch.items, batch.row, self.config.corruption if ctx.training else 0.0, ctx.uniform_at
        )
        items, row = batch.items.values.long(), profiles.rows(batch.items)  # (E,), (E,)
        hidden, nodes = self._hidden(batch.user, batch.items, keep)  # (B, H), (B, H)
        drawn, unmet = self._drawn(batch, ctx)  # (E, N)
        z, q, q_not = hidden[row], self.last(items), self.last(drawn)  # (E, H), (E, H), (E, N, H)
        positive = (z * q).sum(-1) + self.last_bias(items).squeeze(-1)
        negative = torch.einsum("eh,enh->en", z, q_not) + self.last_bias(drawn).squeeze(-1)
        # (E,)
        norms = (
            q.square().sum(-1) + self.first(items).square().sum(-1) + nodes.square().sum(-1)[row]
        )
        return {
            "positive": positive,
            "negative": negative,
            "unmet": unmet,
            "norms": norms,
            "negative_norms": q_not.square().sum(-1),
        }

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        positive, negative, unmet = output["positive"], output["negative"], output["unmet"]
        present = profiles.ones(batch.items, positive)  # (E,)
        if self.config.loss == "pairwise":
            losses, count = -(F.logsigmoid(positive[:, None] - negative) * unmet).sum(), unmet.sum()
        elif self.config.loss == "square":
            losses = ((positive - 1).square() * present).sum() + (negative.square() * unmet).sum()
            count = present.sum() + unmet.sum()
        else:
            losses = (
                -(F.logsigmoid(positive) * present).sum() - (F.logsigmoid(-negative) * unmet).sum()
            )
            count = present.sum() + unmet.sum()
        terms = {self.config.loss: Term(losses, count)}
        if self.config.l2:
            norms = (output["norms"] * present).sum() + (output["negative_norms"] * unmet).sum()
            terms["l2"] = Term(norms, count, self.config.l2)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """The outputs from the whole history and, for a user in the training data, the user's
        node.
        """
        hidden, _ = self._hidden(query.user, query.history)
        return profiles.products(hidden, self.last.weight, self.last_bias.weight[:, 0], items)

    def _hidden(
        self, user: Tensor, items: Ragged, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The hidden layer and the users' nodes, (B, H) each."""
        summed = (
            profiles.bag(self.first.weight, items, profiles.ones(items, self.first.weight), keep)
            + self.first_bias
        )
        nodes = self.user(user) if self.config.user_node else torch.zeros_like(summed)
        return torch.sigmoid(summed + nodes), nodes

    def _drawn(self, batch: Profile, ctx: Context) -> tuple[Tensor, Tensor]:
        """Items drawn uniformly, int64 (E, N), by global row and item, and a mask (E, N): 1 where
        the user has not met the drawn item and the entry is not padding.
        """
        items, number = batch.items.values.long(), self.config.negatives_per_item
        cell = items[:, None] * number + torch.arange(number, device=items.device)  # (E, N)
        row = profiles.per_entry(batch.items, batch.row)[:, None].expand_as(cell)
        uniform = ctx.uniform_at("negatives", row.reshape(-1), cell.reshape(-1)).view_as(cell)
        drawn = 1 + (uniform.double() * self.sizes.num_items).long()
        met = batch.items.dense(self.sizes.num_items + 1)  # (B, I + 1)
        unmet = (met[profiles.rows(batch.items)[:, None], drawn] == 0) & (items > 0)[:, None]
        return drawn, unmet.to(self.first_bias.dtype)

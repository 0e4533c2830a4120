"""Denoising autoencoder of users' profiles with a multinomial likelihood (Mult-DAE).

Paper: Dawen Liang, Rahul G. Krishnan, Matthew D. Hoffman, Tony Jebara. Variational Autoencoders for
Collaborative Filtering. WWW 2018, arXiv:1802.05814 (equation 2; the denoising autoencoder of
sections 2.2.3 and 4.3).
Differs: weights start from Glorot's uniform distribution, biases at zero. Ratings count as 1,
whatever their value; the split chooses which of them are in the profile.

For: rankings for new users from their history, on up to some 100,000 items.
Needs: events.
Cold: a new user with a history is ranked at once; new items are never found.
Not for: small sets: ease and ials were better on ML-1M.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.nn import profiles


class MultiDae(Model):
    """Scores from the history alone, so new users need no training. An empty history gets the
    scores of an empty profile.

    The items of a history are distinct; index 0 in it (padding, an item unknown to training) has
    weight 0.
    """

    layout = "profile"
    task = "ranking"

    class Config(Settings):
        hidden_dim: int = Field(200, ge=1)  # hidden units
        # Share of a profile's items hidden from the encoder
        dropout: float = Field(0.5, ge=0, lt=1)
        l2: float = Field(2e-5, ge=0)  # times the squared norm of both layers' weights

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # Both layers have one row per item, like tables; row 0 is never used.
        self.first = nn.Parameter(torch.empty(sizes.num_items + 1, config.hidden_dim))
        self.first_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.last = nn.Parameter(torch.empty(sizes.num_items + 1, config.hidden_dim))
        self.last_bias = nn.Parameter(torch.zeros(sizes.num_items + 1))
        for weight in [self.first, self.last]:
            nn.init.xavier_uniform_(weight)

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        # (entries,)
        keep = profiles.dropout(
            batch.items, batch.row, self.config.dropout if ctx.training else 0.0, ctx.uniform_at
        )
        hidden = self._hidden(batch.items, keep)
        return {
            "logits": profiles.products(hidden, self.last, self.last_bias),  # (B, I + 1)
            "norms": self.first[1:].square().sum() + self.last[1:].square().sum(),
        }

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        users = output["logits"].new_tensor(len(batch))
        # Equation 2, summed over users
        terms = {"nll": Term(profiles.multinomial(output["logits"], batch.items), users)}
        if self.config.l2:
            terms["l2"] = Term(users * output["norms"], users, self.config.l2)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """The logits."""
        return profiles.products(self._hidden(query.history), self.last, self.last_bias, items)

    def _hidden(self, items: Ragged, keep: Tensor | None = None) -> Tensor:
        # (B, H)
        return torch.tanh(
            profiles.bag(self.first, items, profiles.normalised(items, self.first), keep)
            + self.first_bias
        )

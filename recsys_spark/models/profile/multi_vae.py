"""Variational autoencoder of users' profiles with a multinomial likelihood (Mult-VAE).

Paper: Dawen Liang, Rahul G. Krishnan, Matthew D. Hoffman, Tony Jebara. Variational Autoencoders for
Collaborative Filtering. WWW 2018, arXiv:1802.05814 (equations 1, 2, 5 and 6, section 2.2.2 for
beta).
Differs: beta grows by 1 / anneal_steps per step up to `beta`, as in the authors' code, then stays
constant. Weights start from Glorot's uniform distribution, biases at zero. Ratings count as 1,
whatever their value; the split chooses which of them are in the profile.

For: rankings for new users from their history; multi_dae with a prior.
Needs: events.
Cold: a new user with a history is ranked at once; new items are never found.
Not for: small sets: ease, ials and multi_dae were better on ML-1M.
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


class MultiVae(Model):
    """Scores from the history alone, so new users need no training. An empty history gets the
    scores of an empty profile.

    The items of a history are distinct; index 0 in it (padding, an item unknown to training) has
    weight 0.
    """

    layout = "profile"
    task = "ranking"

    class Config(Settings):
        hidden_dim: int = Field(600, ge=1)  # hidden units of the encoder and of the decoder
        latent_dim: int = Field(200, ge=1)  # width of the latent vector
        # Share of a profile's items hidden from the encoder
        dropout: float = Field(0.5, ge=0, lt=1)
        beta: float = Field(0.2, ge=0)  # weight of the KL term when annealing has ended
        anneal_steps: int = Field(5000, ge=1)  # number of steps after which beta would reach 1

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        # The first and last layer have one row per item, like tables; row 0 is never used.
        self.first = nn.Parameter(torch.empty(sizes.num_items + 1, config.hidden_dim))
        self.first_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.to_latent = nn.Linear(config.hidden_dim, 2 * config.latent_dim)
        self.from_latent = nn.Linear(config.latent_dim, config.hidden_dim)
        self.last = nn.Parameter(torch.empty(sizes.num_items + 1, config.hidden_dim))
        self.last_bias = nn.Parameter(torch.zeros(sizes.num_items + 1))
        for weight in [self.first, self.to_latent.weight, self.from_latent.weight, self.last]:
            nn.init.xavier_uniform_(weight)
        for bias in [self.to_latent.bias, self.from_latent.bias]:
            nn.init.zeros_(bias)

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        # (entries,)
        keep = profiles.dropout(
            batch.items, batch.row, self.config.dropout if ctx.training else 0.0, ctx.uniform_at
        )
        mean, log_variance = self._encode(batch.items, keep)  # (B, Z), (B, Z)
        latent = mean
        if ctx.training:
            noise = ctx.normal("latent", batch.row, self.config.latent_dim).to(mean.dtype)
            # Equation 5's sample, reparameterised
            latent = mean + noise * (0.5 * log_variance).exp()
        logits = profiles.products(self._hidden(latent), self.last, self.last_bias)  # (B, I + 1)
        return {"logits": logits, "mean": mean, "log_variance": log_variance}

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        logits, mean, log_variance = output["logits"], output["mean"], output["log_variance"]
        nll = profiles.multinomial(logits, batch.items)  # equation 2, summed over users
        # KL(q || N(0, 1))
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
        users = mean.new_tensor(len(batch))
        # Equation 6
        return {
            "nll": Term(nll, users),
            "kl": Term(divergence, users, self.beta_at(ctx)),
        }

    def beta_at(self, ctx: Context) -> float:
        return (
            min(self.config.beta, ctx.step / self.config.anneal_steps)
            if ctx.training
            else self.config.beta
        )

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """The logits, from the mean of the latent distribution."""
        hidden = self._hidden(self._encode(query.history)[0])  # (B, H)
        return profiles.products(hidden, self.last, self.last_bias, items)

    def _encode(self, items: Ragged, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, Z) each."""
        # (B, H)
        summed = profiles.bag(self.first, items, profiles.normalised(items, self.first), keep)
        mean, log_variance = self.to_latent(torch.tanh(summed + self.first_bias)).chunk(2, 1)
        return mean, log_variance

    def _hidden(self, latent: Tensor) -> Tensor:
        return torch.tanh(self.from_latent(latent))  # (B, H)

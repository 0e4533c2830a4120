"""Autoencoder of users' rating profiles (U-AutoRec): what a user thought of some items gives what the user thinks of all.

Paper: Suvash Sedhain, Aditya Krishna Menon, Scott Sanner, Lexing Xie. AutoRec: Autoencoders Meet Collaborative Filtering. WWW 2015
Companion, doi:10.1145/2740908.2742726 (equations 1 to 3, with users' vectors).
Differs: ratings come out, and with `centred` also go in, as deviations from the training mean; the job's optimiser takes the place of
resilient propagation and L-BFGS; weights start from Glorot's uniform distribution, biases at zero. A user without ratings is predicted what
the network says of an empty profile; an item that training never met is predicted the training mean (the paper: 3). Predictions are clamped
to the range of the training labels.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.models.batches import Profile, Query, Ragged
from recsys_spark.nn import profiles


class AutorecUser(Model):
    """A profile's own entries count for the loss, never what is held. Index 0 in a profile (padding, unknown) counts for nothing."""

    layout = "profile"
    task = "rating"

    class Config(Settings):
        hidden_dim: int = Field(500, ge=1)
        # What is not observed goes in as 0: of ratings as they are the network sees which were given at all, of deviations it does not.
        centred: bool = False
        l2: float = Field(20.0, ge=0)  # lambda: half of it times both layers' squared norms stand beside the squared errors of all ratings

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean, self.ratings = sizes.statistic("label_mean"), sizes.statistic("label_count")
        width = 1 + (sizes.num_items if self.by_of({}) == "user" else sizes.num_users)
        self.first = nn.Parameter(torch.empty(width, config.hidden_dim))  # V, transposed
        self.first_bias = nn.Parameter(torch.zeros(config.hidden_dim))  # mu
        self.last = nn.Parameter(torch.empty(width, config.hidden_dim))  # W
        # Starts at exactly zero and only training moves it: a zero marks a column that training never met.
        self.last_bias = nn.Parameter(torch.zeros(width))  # b
        for weight in [self.first, self.last]:
            nn.init.xavier_uniform_(weight)

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        hidden = self._hidden(batch.items, batch.values)
        return {"rating": self.mean + profiles.products(hidden, self.last, self.last_bias),  # equation 1, (B, I + 1)
                "norms": self.first[1:].square().sum() + self.last[1:].square().sum()}

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        known = profiles.ones(batch.items, output["rating"])  # (entries,)
        found = output["rating"][profiles.rows(batch.items), batch.items.values.long()]
        count = known.sum()
        terms = {"squared_error": Term((known * (found - batch.values).square()).sum(), count)}  # equation 2: what is observed alone
        if self.config.l2:  # divided by the number of ratings, as the errors are
            terms["l2"] = Term(count * output["norms"], count, 0.5 * self.config.l2 / self.ratings)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Predicted ratings, not clamped. A history without values says nothing of what was thought of it: as if at the mean."""
        values = query.values if query.values is not None else torch.full_like(query.history.values, self.mean, dtype=self.last.dtype)
        deviations = profiles.products(self._hidden(query.history, values), self.last, self.last_bias, items)
        met = self.last_bias != 0
        return self.mean + deviations * (met if items is None else met[items])

    def predict(self, batch: Profile) -> dict[str, Tensor]:
        """Equation 3, at the held entries."""
        held, low, high = batch.held.values.long(), self.sizes.statistic("label_min"), self.sizes.statistic("label_max")
        found = self(batch, Context())["rating"][profiles.rows(batch.held), held]
        return {"rating": torch.where(self.last_bias[held] != 0, found, self.mean).clamp(low, high)}

    def _hidden(self, items: Ragged, values: Tensor) -> Tensor:
        known = profiles.ones(items, self.first)
        given = values.to(known.dtype) - (self.mean if self.config.centred else 0.0)
        dense = items.dense(len(self.first), given * known)  # (B, I + 1)
        return torch.sigmoid(dense @ self.first + self.first_bias)  # (B, H)

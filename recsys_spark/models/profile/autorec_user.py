"""Autoencoder of users' rating profiles (U-AutoRec): predicts a user's ratings of all items from
the ratings of some.

Paper: Suvash Sedhain, Aditya Krishna Menon, Scott Sanner, Lexing Xie. AutoRec: Autoencoders Meet
Collaborative Filtering. WWW 2015 Companion, doi:10.1145/2740908.2742726 (equations 1 to 3, with
users' vectors).
Differs: ratings come out, and with `centred` also go in, as deviations from the training mean; the
job's optimiser takes the place of resilient propagation and L-BFGS; weights start from Glorot's
uniform distribution, biases at zero. A user without ratings gets the predictions for an empty
profile; an item absent from training gets the training mean (the paper: 3).
Predictions are clamped to the range of the training labels.

For: ratings for new users from their rated history.
Needs: rated events.
Cold: a new user with ratings is predicted at once; a new item gets the mean.
Not for: the best figure: autorec_item and mf_bias are better where all were measured.
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


class AutorecUser(Model):
    """The loss is over a profile's own entries, never the held ones. Index 0 in a profile (padding,
    unknown) has weight 0.
    """

    layout = "profile"
    task = "rating"

    class Config(Settings):
        hidden_dim: int = Field(500, ge=1)  # hidden units
        # Unobserved entries are 0 in the input: with raw ratings the network can tell them from
        # observed ones, with deviations it cannot.
        centred: bool = False
        # lambda: half of it times the squared norms of both layers is added to the squared errors
        # of all ratings
        l2: float = Field(20.0, ge=0)

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean, self.ratings = sizes.statistic("label_mean"), sizes.statistic("label_count")
        width = 1 + (sizes.num_items if self.by_of({}) == "user" else sizes.num_users)
        self.first = nn.Parameter(torch.empty(width, config.hidden_dim))  # V, transposed
        self.first_bias = nn.Parameter(torch.zeros(config.hidden_dim))  # mu
        self.last = nn.Parameter(torch.empty(width, config.hidden_dim))  # W
        # Starts at exactly zero and only training changes it: a zero marks a column absent from
        # training.
        self.last_bias = nn.Parameter(torch.zeros(width))  # b
        for weight in [self.first, self.last]:
            nn.init.xavier_uniform_(weight)

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        hidden = self._hidden(batch.items, batch.values)
        return {
            "rating": self.mean
            + profiles.products(hidden, self.last, self.last_bias),  # equation 1, (B, I + 1)
            "norms": self.first[1:].square().sum() + self.last[1:].square().sum(),
        }

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        present = profiles.ones(batch.items, output["rating"])  # (entries,)
        predicted = output["rating"][profiles.rows(batch.items), batch.items.values.long()]
        count = present.sum()
        # Equation 2: observed entries only
        terms = {
            "squared_error": Term((present * (predicted - batch.values).square()).sum(), count)
        }
        if self.config.l2:  # divided by the number of ratings, as the errors are
            terms["l2"] = Term(count * output["norms"], count, 0.5 * self.config.l2 / self.ratings)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Predicted ratings, not clamped. A history without values is taken as rated at the
        training mean.
        """
        values = (
            query.values
            if query.values is not None
            else torch.full_like(query.history.values, self.mean, dtype=self.last.dtype)
        )
        deviations = profiles.products(
            self._hidden(query.history, values), self.last, self.last_bias, items
        )
        trained = self.last_bias != 0
        return self.mean + deviations * (trained if items is None else trained[items])

    def predict(self, batch: Profile) -> dict[str, Tensor]:
        """Predictions of equation 3 at the held entries."""
        held = batch.held.values.long()
        low = self.sizes.statistic("label_min")
        high = self.sizes.statistic("label_max")
        predicted = self(batch, Context())["rating"][profiles.rows(batch.held), held]
        return {
            "rating": torch.where(self.last_bias[held] != 0, predicted, self.mean).clamp(low, high)
        }

    def _hidden(self, items: Ragged, values: Tensor) -> Tensor:
        present = profiles.ones(items, self.first)
        inputs = values.to(present.dtype) - (self.mean if self.config.centred else 0.0)
        dense = items.dense(len(self.first), inputs * present)  # (B, I + 1)
        return torch.sigmoid(dense @ self.first + self.first_bias)  # (B, H)

"""Matrix factorization whose item biases, user biases, user factors and weights of factors change
with time.

Paper: Yehuda Koren. Collaborative Filtering with Temporal Dynamics. KDD 2009,
doi:10.1145/1557019.1557072 (item biases in bins, linear drift of users); Liang Xiong, Xi Chen,
Tzu-Kuo Huang, Jeff Schneider, Jaime G. Carbonell. Temporal Collaborative Filtering with Bayesian
Probabilistic Tensor Factorization. SDM 2010, doi:10.1137/1.9781611972801.19 (a vector for each
time, times the user's and the item's).
Differs: a user's drift is linear in the time since training began (Koren: a power of the time from
the user's own mean date, and parameters of single days); no implicit feedback; the vectors of times
are learned by gradients under a total-variation penalty along time
(Xiong: sampled, under a Gaussian one), and items' bins under the same penalty; a time after the end
of training counts as its end.

For: ratings over years in which tastes and items drift.
Needs: rated events with true times.
Cold: a user or item without training events is predicted from the other side alone.
Not for: rows split at random over a short time: mf_bias is better there.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError
from recsys_spark.models.base import Context, ItemVectors, Model, Sizes, Term
from recsys_spark.nn.tables import products, table


class MfTemporal(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(32, ge=1)  # width of the factors
        bins: int = Field(30, ge=1)  # bins of equal length in the training time
        # coefficient of the squared norms of the rows in the batch, for each occurrence
        l2_factor: float = Field(0.04, ge=0)
        l2_bias: float = Field(0.005, ge=0)  # the same of the biases
        # coefficient for the drift of a user's bias and factors, and for an item's bins
        l2_drift: float = Field(0.05, ge=0)
        smooth: float = Field(0.002, ge=0)  # coefficient of the total variation along time
        init_std: float = Field(0.03, gt=0)  # standard deviation of the factors at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        """Raises ConfigError for shards without `ts`."""
        super().__init__(config, sizes)
        time = next((field for field in sizes.fields if field.kind == "time"), None)
        if time is None:
            raise ConfigError(
                "shards of model mf_temporal",
                found=f"fields {', '.join(field.name for field in sizes.fields) or 'none'}",
                expected="ts among them",
                remedy="export with features: {event: [ts]}",
            )
        self.low, self.high = time.low, max(time.high, time.low + 1.0)
        self.mean = sizes.statistics.get("label_mean", 0.0)
        self.user, self.item = (
            table(rows, config.dim, config.init_std) for rows in (sizes.num_users, sizes.num_items)
        )
        # Biases start at exactly zero and only training changes them: a zero marks a row absent
        # from training.
        self.user_bias, self.item_bias = (
            table(rows, 1, 0.0) for rows in (sizes.num_users, sizes.num_items)
        )
        # change of bias and factors from the middle of the training time to its end
        self.drift = table(sizes.num_users, 1 + config.dim, 0.0)
        self.bias_at = table(sizes.num_items, config.bins, 0.0)  # b_i,Bin(t)
        # factors are multiplied by 1 + times[bin]
        self.times = nn.Parameter(torch.zeros(config.bins, config.dim))

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        bins, tau = self.when(batch.ts)
        b_u, p, user_norms = self._user(batch.user, tau, ctx.training)
        b_i, q, item_norms = self._item(batch.item, bins, ctx.training)
        rating = self.mean + b_u + b_i + (p * q).sum(-1)
        smooth = item_norms["variation"] + total_variation(self.times.T).sum()
        return {
            "rating": rating,
            **{name: user_norms[name] + item_norms[name] for name in user_norms},
            "smooth": smooth,
        }

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        terms = {
            "squared_error": Term(
                (batch.weight * (output["rating"] - batch.label).square()).sum(), weight
            )
        }
        for name in ("l2_factor", "l2_bias", "l2_drift", "smooth"):
            terms[name] = Term(
                (batch.weight * output[name]).sum(), weight, getattr(self.config, name)
            )
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Scores at the end of the training time."""
        items = (
            torch.arange(self.sizes.num_items + 1, device=query.user.device)
            if items is None
            else items
        )
        (b_u, p), (b_i, q) = self._users_at_end(query.user), self._items_at_end(items)
        return self.mean + b_u[:, None] + b_i + products(p, q)

    def index(self) -> ItemVectors:
        items = torch.arange(self.sizes.num_items + 1, device=self.times.device)
        b_i, q = self._items_at_end(items)
        return ItemVectors(torch.cat([q, q.new_ones(len(q), 1)], 1), b_i)

    def encode(self, query: Query) -> Tensor:
        b_u, p = self._users_at_end(query.user)
        return torch.cat([p, (b_u + self.mean).unsqueeze(1)], 1)

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

    def when(self, ts: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B,) -> the bin, and the time on a scale from -1 to 1, (B,); a time outside the
        training time counts as its nearer end.
        """
        share = ((ts.double() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        bins = (share * self.config.bins).long().clamp(max=self.config.bins - 1)
        return bins, (2.0 * share - 1.0).to(self.times.dtype)

    def _user(
        self, user: Tensor, tau: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Bias b_u + alpha_u tau (B,) and factors p_u + a_u tau (B, D) at time tau, and the
        norms.
        """
        bias, factors, drift = self.user_bias(user).squeeze(-1), self.user(user), self.drift(user)
        scored = factors if training else factors * (bias != 0).unsqueeze(-1)
        return (
            bias + drift[:, 0] * tau,
            scored + drift[:, 1:] * tau.unsqueeze(-1),
            {
                "l2_factor": factors.square().sum(-1),
                "l2_bias": bias.square(),
                "l2_drift": drift.square().sum(-1),
            },
        )

    def _item(
        self, item: Tensor, bins: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Bias b_i + b_i,bin (B,), factors times those of the bin (B, D), the norms and the
        variation of the item's bins.
        """
        # (B,), (B, D), (B, bins)
        bias = self.item_bias(item).squeeze(-1)
        factors = self.item(item)
        bin_biases = self.bias_at(item)
        scored = factors if training else factors * (bias != 0).unsqueeze(-1)
        return (
            bias + bin_biases.gather(1, bins[:, None]).squeeze(1),
            scored * (1.0 + self.times[bins]),
            {
                "l2_factor": factors.square().sum(-1),
                "l2_bias": bias.square(),
                "l2_drift": bin_biases.square().mean(-1),
                "variation": total_variation(bin_biases),
            },
        )

    def _users_at_end(self, user: Tensor) -> tuple[Tensor, Tensor]:
        bias, factors, _ = self._user(user, torch.ones_like(user, dtype=self.times.dtype), False)
        return bias, factors

    def _items_at_end(self, items: Tensor) -> tuple[Any, Any]:
        flat = items.reshape(-1)
        bias, factors, _ = self._item(
            flat, torch.full_like(flat, self.config.bins - 1, dtype=torch.int64), False
        )
        return bias.view(items.shape), factors.view(*items.shape, -1)


def total_variation(series: Tensor) -> Tensor:
    """(..., T) -> (...): the sum of the absolute steps from each time to the next; 0 for a constant
    series.
    """
    return series.diff(dim=-1).abs().sum(-1)

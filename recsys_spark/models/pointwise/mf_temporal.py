"""Matrix factorization in which items' biases, users' biases and tastes, and what factors mean change with time.

Paper: Yehuda Koren. Collaborative Filtering with Temporal Dynamics. KDD 2009, doi:10.1145/1557019.1557072 (item biases in bins, linear
drift of users); Liang Xiong, Xi Chen, Tzu-Kuo Huang, Jeff Schneider, Jaime G. Carbonell. Temporal Collaborative Filtering with Bayesian
Probabilistic Tensor Factorization. SDM 2010, doi:10.1137/1.9781611972801.19 (a vector for each time, times the user's and the item's).
Differs: a user's drift is linear in the time since training began (Koren: a power of the time from the user's own mean date, and
parameters of single days); no implicit feedback; the vectors of times are learned by gradients under a total-variation penalty along time
(Xiong: sampled, under a Gaussian one), and items' bins under the same penalty; a time past the end of training is its end.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError
from recsys_spark.models.base import Context, DotFactors, Model, Sizes, Term
from recsys_spark.models.batches import Query, Rows
from recsys_spark.nn.tables import products, table


class MfTemporal(Model):
    layout = "pointwise"
    task = "rating"

    class Config(Settings):
        dim: int = Field(32, ge=1)
        bins: int = Field(30, ge=1)  # of the training time, equally long
        l2_factor: float = Field(0.04, ge=0)  # times the squared norms of the rows in the batch, each time they occur
        l2_bias: float = Field(0.005, ge=0)
        l2_drift: float = Field(0.05, ge=0)  # of what a user's bias and factors change by, and of an item's bins
        smooth: float = Field(0.002, ge=0)  # times the total variation along time
        init_std: float = Field(0.03, gt=0)

    def __init__(self, config: Config, sizes: Sizes) -> None:
        """Raises ConfigError for shards without `ts`."""
        super().__init__(config, sizes)
        time = next((one for one in sizes.fields if one.kind == "time"), None)
        if time is None:
            raise ConfigError("shards of model mf_temporal", found=f"fields {', '.join(one.name for one in sizes.fields) or 'none'}",
                              expected="ts among them", remedy="export with features: {event: [ts]}")
        self.low, self.high = time.low, max(time.high, time.low + 1.0)
        self.mean = sizes.statistics.get("label_mean", 0.0)
        self.user, self.item = (table(rows, config.dim, config.init_std) for rows in (sizes.num_users, sizes.num_items))
        # Biases start at exactly zero and only training moves them: a zero marks a row that training never met.
        self.user_bias, self.item_bias = (table(rows, 1, 0.0) for rows in (sizes.num_users, sizes.num_items))
        self.drift = table(sizes.num_users, 1 + config.dim, 0.0)  # what bias and factors change by, from the middle of time to its end
        self.bias_at = table(sizes.num_items, config.bins, 0.0)  # b_i,Bin(t)
        self.times = nn.Parameter(torch.zeros(config.bins, config.dim))  # factors are multiplied by 1 + this

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        bins, tau = self.when(batch.ts)
        b_u, p, of_user = self._user(batch.user, tau, ctx.training)
        b_i, q, of_item = self._item(batch.item, bins, ctx.training)
        rating = self.mean + b_u + b_i + (p * q).sum(-1)
        smooth = of_item["variation"] + total_variation(self.times.T).sum()
        return {"rating": rating, **{name: of_user[name] + of_item[name] for name in of_user}, "smooth": smooth}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        terms = {"squared_error": Term((batch.weight * (output["rating"] - batch.label).square()).sum(), weight)}
        for name in ("l2_factor", "l2_bias", "l2_drift", "smooth"):
            terms[name] = Term((batch.weight * output[name]).sum(), weight, getattr(self.config, name))
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """At the end of training."""
        items = torch.arange(self.sizes.num_items + 1, device=query.user.device) if items is None else items
        (b_u, p), (b_i, q) = self._users_at_end(query.user), self._items_at_end(items)
        return self.mean + b_u[:, None] + b_i + products(p, q)

    def index(self) -> DotFactors:
        device = self.times.device
        (b_u, p), (b_i, q) = (self._users_at_end(torch.arange(self.sizes.num_users + 1, device=device)),
                              self._items_at_end(torch.arange(self.sizes.num_items + 1, device=device)))
        return DotFactors(torch.cat([p, (b_u + self.mean).unsqueeze(1)], 1), torch.cat([q, q.new_ones(len(q), 1)], 1), b_i)

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"rating": self.sizes.clamped(self(batch, Context())["rating"])}

    def when(self, ts: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B,) -> the bin, and the time on a scale from -1 to 1 (B,); what lies outside of training is at its nearer end."""
        share = ((ts.double() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        bins = (share * self.config.bins).long().clamp(max=self.config.bins - 1)
        return bins, (2.0 * share - 1.0).to(self.times.dtype)

    def _user(self, user: Tensor, tau: Tensor, training: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Bias (B,) and factors (B, D) at time tau: b_u + alpha_u tau and p_u + a_u tau, and the norms."""
        bias, factors, drift = self.user_bias(user).squeeze(-1), self.user(user), self.drift(user)
        shown = factors if training else factors * (bias != 0).unsqueeze(-1)
        return bias + drift[:, 0] * tau, shown + drift[:, 1:] * tau.unsqueeze(-1), {
            "l2_factor": factors.square().sum(-1), "l2_bias": bias.square(), "l2_drift": drift.square().sum(-1)}

    def _item(self, item: Tensor, bins: Tensor, training: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Bias b_i + b_i,bin (B,), factors times those of the bin (B, D), the norms and the variation of the item's bins."""
        bias, factors, at = self.item_bias(item).squeeze(-1), self.item(item), self.bias_at(item)  # (B,), (B, D), (B, bins)
        shown = factors if training else factors * (bias != 0).unsqueeze(-1)
        return bias + at.gather(1, bins[:, None]).squeeze(1), shown * (1.0 + self.times[bins]), {
            "l2_factor": factors.square().sum(-1), "l2_bias": bias.square(), "l2_drift": at.square().mean(-1),
            "variation": total_variation(at)}

    def _users_at_end(self, user: Tensor) -> tuple[Tensor, Tensor]:
        bias, factors, _ = self._user(user, torch.ones_like(user, dtype=self.times.dtype), False)
        return bias, factors

    def _items_at_end(self, items: Tensor) -> tuple[Any, Any]:
        flat = items.reshape(-1)
        bias, factors, _ = self._item(flat, torch.full_like(flat, self.config.bins - 1, dtype=torch.int64), False)
        return bias.view(items.shape), factors.view(*items.shape, -1)


def total_variation(series: Tensor) -> Tensor:
    """(..., T) -> (...): the sum of the absolute steps from each time to the next; 0 for a constant series."""
    return series.diff(dim=-1).abs().sum(-1)

"""Restricted Boltzmann machine of rating profiles: a softmax unit for each rated item, binary
hidden units, contrastive divergence.

Paper: Ruslan Salakhutdinov, Andriy Mnih, Geoffrey Hinton. Restricted Boltzmann Machines for
Collaborative Filtering. ICML 2007, doi:10.1145/1273496.1273596 (sections 2.1 to 2.3; the
conditional machine of section 4).
Differs: the gradient of contrastive divergence is that of a difference of free energies, F(data) -
F(sample), with the energy that gives the conditional distributions of equations 1 and 2 (without
the paper's log Z terms). The number of Gibbs steps grows with the share of the planned training
that is done. The conditional machine sees the items rated in the profile, not those to be
predicted. Biases start at zero; one learning rate for all. Prediction is the expected level under
one step of mean field, with the levels' values. A profile without ratings is predicted from the
biases; an item absent from training gets the training mean. With `by: item`, profiles are those of
items, and it ranks no items for a user.

For: comparison with the literature.
Needs: rated events with few distinct values.
Cold: a new user with ratings is predicted at once (`by: user`); a new item gets the mean.
Not for: use: mf_bias is better and cheaper where both were measured.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.models.profile.autorec_item import cannot_rank
from recsys_spark.nn import profiles

_CELLS = 1 << 22  # elements in memory at once while many ratings are predicted


class _Entries(NamedTuple):
    """The rated items of a batch and the level of each: visible units that are present."""

    items: Ragged  # (B rows)
    row: Tensor  # int64 (E,): 0..B-1
    known: Tensor  # (E,): 0 for padding
    level: Tensor  # int64 (E,): 0..K-1


class RbmCf(Model):
    layout = "profile"
    task = "rating"

    class Config(Settings):
        by: Literal["user", "item"] = "user"  # as in the shard set
        hidden_dim: int = Field(100, ge=1)  # hidden units
        # difference of two rating levels; the lowest and the highest are those of the training
        # labels
        step: float = Field(1.0, gt=0)
        # numbers of Gibbs steps, each for an equal share of the planned training
        cd_steps: tuple[int, ...] = Field((1, 3, 5, 9), min_length=1)
        conditional: bool = False  # the hidden units also see which items are rated
        # coefficient of half the squared norm of the weights, applied by the optimiser
        weight_decay: float = Field(0.001, ge=0)
        init_std: float = Field(0.01, gt=0)  # standard deviation of the weights at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean, self.low, self.high = (
            sizes.statistic(f"label_{name}") for name in ("mean", "min", "max")
        )
        count = (self.high - self.low) / config.step
        if abs(count - round(count)) > 1e-6:
            raise ConfigError(
                "config.step of rbm_cf",
                found=config.step,
                expected=f"a part of the range {self.low:g} to {self.high:g}",
                remedy="set the distance between two rating levels",
            )
        self.num_levels = 1 + round(count)  # K
        width = 1 + (sizes.num_items if config.by == "user" else sizes.num_users)
        # W, a row for each item and level
        self.weight = nn.Parameter(torch.empty(width * self.num_levels, config.hidden_dim))
        # Starts at exactly zero and only training changes it: zeros mark an item absent from
        # training.
        self.visible_bias = nn.Parameter(torch.zeros(width, self.num_levels))
        self.hidden_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        nn.init.normal_(self.weight, std=config.init_std)
        if config.conditional:
            self.rated = nn.Parameter(torch.zeros(width, config.hidden_dim))  # D

    @classmethod
    def by_of(cls, config: dict[str, Any]) -> str:
        return str(config.get("by", "user"))

    def forward(self, batch: Profile, ctx: Context) -> dict[str, Tensor]:
        """Free energies (B,) of the data and of the Gibbs sample."""
        data = self._entries(batch.items, batch.values)
        hidden = self._hidden(data)
        sample = self._sample(data, hidden.detach(), batch.row, ctx)
        return {
            "data": self._free_energy(data, hidden),
            "sample": self._free_energy(sample, self._hidden(sample)),
        }

    def loss(self, batch: Profile, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        """Its gradient is minus the update of contrastive divergence, averaged over the batch; its
        value is not a measure of fit.
        """
        return {"divergence": Term((output["data"] - output["sample"]).sum(), float(len(batch)))}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay of the optimiser on the weights alone: as a term of the loss it would cost
        passes over the table in each step.
        """
        weights = [self.weight, *([self.rated] if self.config.conditional else [])]
        return [
            {"params": weights, "weight_decay": self.config.weight_decay},
            {"params": [self.visible_bias, self.hidden_bias]},
        ]

    def cd_at(self, ctx: Context) -> int:
        """T, the number of Gibbs steps at this point of the training."""
        steps = self.config.cd_steps
        return (
            steps[min(len(steps) - 1, len(steps) * ctx.step // ctx.total_steps)]
            if ctx.total_steps
            else steps[0]
        )

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Expected ratings. A history without values is taken as rated at the level nearest to the
        mean.
        """
        if self.config.by == "item":
            raise cannot_rank("rbm_cf by item")
        nearest = self.low + round((self.mean - self.low) / self.config.step) * self.config.step
        values = (
            query.values
            if query.values is not None
            else torch.full_like(query.history.values, nearest, dtype=self.weight.dtype)
        )
        hidden = self._hidden(self._entries(query.history, values)).sigmoid()
        blocks = hidden.split(max(1, _CELLS // len(self.weight)))
        ratings = torch.cat(
            [self._expected(self._all(block), self.visible_bias) for block in blocks]
        )
        if items is None:
            return ratings
        return ratings[:, items] if items.dim() == 1 else ratings.gather(1, items)

    def predict(self, batch: Profile) -> dict[str, Tensor]:
        hidden = self._hidden(self._entries(batch.items, batch.values)).sigmoid()  # (B, H)
        weight, ratings = self.weight.view(-1, self.num_levels, hidden.shape[1]), []
        block = max(1, _CELLS // (self.num_levels * hidden.shape[1]))
        for row, held in zip(
            profiles.rows(batch.held).split(block),
            batch.held.values.long().split(block),
            strict=True,
        ):
            inputs = torch.einsum("eh,ekh->ek", hidden[row], weight[held])
            ratings.append(self._expected(inputs, self.visible_bias[held]))
        return {"rating": torch.cat(ratings)}

    def _expected(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """Inputs of the units (..., K), and their bias -> expected ratings (...), by equation 1;
        for items absent from training, the training mean.
        """
        values = self.low + self.config.step * torch.arange(
            self.num_levels, dtype=inputs.dtype, device=inputs.device
        )
        return torch.where((bias != 0).any(-1), (inputs + bias).softmax(-1) @ values, self.mean)

    def _all(self, hidden: Tensor) -> Tensor:
        """Inputs of the units of all items from the hidden units, (B, I + 1, K)."""
        return (hidden @ self.weight.T).view(len(hidden), len(self.visible_bias), self.num_levels)

    def _entries(self, items: Ragged, values: Tensor) -> _Entries:
        """The entries with their rating levels. Raises DataError for a rating that is no level."""
        present = profiles.ones(items, self.weight)
        position = (values.to(present.dtype) - self.low) / self.config.step * present
        level = position.round().long()
        invalid = ((position - level).abs() > 1e-3) | (level < 0) | (level >= self.num_levels)
        if invalid.any():
            raise DataError(
                "a rating of a profile",
                found=f"{float(values[invalid][0]):g}",
                expected=f"{self.low:g} to {self.high:g} in steps of {self.config.step:g}",
                remedy="set config.step to the distance "
                "between two ratings, or mend the rating in the source",
            )
        return _Entries(items, profiles.rows(items), present, level)

    def _hidden(self, entries: _Entries) -> Tensor:
        """Inputs of the hidden units, (B, H): equation 2 (with the term of D, where conditional)
        before its sigmoid.
        """
        cells = Ragged(
            entries.items.offsets, entries.items.values.long() * self.num_levels + entries.level
        )
        summed = profiles.bag(self.weight, cells, entries.known) + self.hidden_bias
        return (
            summed + profiles.bag(self.rated, entries.items, entries.known)
            if self.config.conditional
            else summed
        )

    def _free_energy(self, entries: _Entries, hidden: Tensor) -> Tensor:
        """-log of the sum over all hidden states of exp(-energy), (B,). hidden: inputs of the
        hidden units, (B, H).
        """
        biases = self.visible_bias[entries.items.values.long(), entries.level] * entries.known
        visible = biases.new_zeros(len(entries.items.offsets) - 1).index_add(0, entries.row, biases)
        return -visible - F.softplus(hidden).sum(1)

    @torch.no_grad()
    def _sample(self, entries: _Entries, initial: Tensor, row: Tensor, ctx: Context) -> _Entries:
        """The levels after T steps of Gibbs sampling from the data; the set of rated items does not
        change.

        initial: inputs of the hidden units from the data, (B, H). row: int64 (B,), global.
        """
        item, per_entry = entries.items.values.long(), profiles.per_entry(entries.items, row)
        for step in range(self.cd_at(ctx)):
            chance = (self._hidden(entries) if step else initial).sigmoid()  # equation 2
            # (B, H)
            hidden = (ctx.uniform(f"hidden {step}", row, chance.shape[1]) < chance).to(chance.dtype)
            inputs = self._all(hidden)[entries.row, item] + self.visible_bias[item]  # (E, K)
            below = inputs.softmax(-1).cumsum(-1)  # equation 1
            drawn = ctx.uniform_at(f"visible {step}", per_entry, item)
            entries = entries._replace(
                level=(drawn[:, None] >= below).sum(1).clamp(max=self.num_levels - 1)
            )
        return entries

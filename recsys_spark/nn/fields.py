"""Users, items and events as features: the numbers of what is known of each, and an embedding of them.

Feature 0 is out-of-vocabulary and padding, 1..U are the users and U + 1..U + I the items themselves; then come the values of every field
in order. A row has S slots (feature, weight): a category has weight 1, of n tags each has 1 / n, a number is its own weight.
What is unknown (an index that training never met, an unseen category, a missing column) is feature 0, whose embedding is zero.

The fields of all users and items are buffers, gathered by index where the model is: a batch brings no more than two indices.
They cost 8 bytes a slot of every user and item (a field has one slot, tags as many as the longest list), on every rank and in every
checkpoint, which therefore scores without the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.core.contracts import Feature
from recsys_spark.nn.tables import table


class Slots(NamedTuple):
    feature: Tensor  # int64 (..., S): 0 where there is none
    weight: Tensor  # float (..., S)


class Fields(nn.Module):
    """Has no weights. `fill` it before use; until then every field of users and items is unknown."""

    def __init__(self, num_users: int, num_items: int, features: Sequence[Feature]) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.features = {side: [f for f in features if f.side == side and f.kind != "time"] for side in ("user", "item", "event")}
        self.start: dict[str, int] = {}  # feature of code 0 of each field, so that code 1 is the next one
        self.num_features = num_users + num_items
        for feature in (f for side in self.features.values() for f in side):
            self.start[feature.name] = self.num_features
            self.num_features += 1 if feature.kind == "number" else len(feature.vocabulary)
        for side, rows in (("user", num_users + 1), ("item", num_items + 1)):
            slots = sum(feature.slots for feature in self.features[side])
            if slots:
                self.register_buffer(f"{side}_index", torch.zeros(rows, slots, dtype=torch.int32))
                self.register_buffer(f"{side}_weight", torch.zeros(rows, slots))

    def widths(self, side: str) -> list[int]:
        """Slots of each field in turn; of a user or item, itself comes first."""
        return [*([] if side == "event" else [1]), *(feature.slots for feature in self.features[side])]

    def fill(self, side: str, index: Tensor, weight: Tensor) -> None:
        """int (rows, S), float (rows, S), as `train.features` reads them."""
        self.get_buffer(f"{side}_index").copy_(index)
        self.get_buffer(f"{side}_weight").copy_(weight)

    def user(self, index: Tensor) -> Slots:
        """int (...) -> (..., 1 + S)"""
        return self._of("user", index.long(), 0)

    def item(self, index: Tensor) -> Slots:
        return self._of("item", index.long(), self.num_users)

    def event(self, codes: Tensor, numbers: Tensor) -> Slots:
        """int (B, E), float (B, N) -> (B, S), in the order of the fields. A batch that brings no column of a field does not know it."""
        index, weight, columns, numbered = [], [], iter(codes.unbind(1)), iter(numbers.unbind(1))
        nothing = numbers.new_zeros(len(numbers))
        for feature in self.features["event"]:
            if feature.kind == "number":
                value = next(numbered, nothing)
                index.append(torch.full(value.shape, self.start[feature.name] + 1, device=value.device))
                weight.append(value)
            else:
                code = next(columns, nothing).long()
                index.append((code + self.start[feature.name]) * (code > 0))
                weight.append((code > 0).to(numbers.dtype))
        if not index:
            return Slots(nothing.long().new_zeros(len(numbers), 0), numbers.new_zeros(len(numbers), 0))
        return Slots(torch.stack(index, 1), torch.stack(weight, 1))

    def _of(self, side: str, index: Tensor, start: int) -> Slots:
        own = ((index + start) * (index > 0)).unsqueeze(-1)
        if not self.features[side]:
            return Slots(own, torch.ones((), device=own.device).expand(own.shape))
        weight = self.get_buffer(f"{side}_weight")[index]
        return Slots(torch.cat([own, self.get_buffer(f"{side}_index")[index].long()], -1),
                     torch.cat([weight.new_ones(own.shape), weight], -1))


class Embedded(NamedTuple):
    """Of the S slots of rows, each times its weight."""

    linear: Tensor  # (..., S)
    factors: Tensor  # (..., S, D)
    bias_norms: Tensor  # (...): squares of the linear weights of the row's features, and of their factors; not times the weights
    norms: Tensor


class FeatureTable(nn.Module):
    """A linear weight and D factors for each feature, in one table, so that one look-up gets both.

    Linear weights start at exactly zero and only training moves them: a zero marks a feature that training never met, whose factors
    are still noise and count as zero outside training.
    """

    def __init__(self, num_features: int, dim: int, std: float) -> None:
        super().__init__()
        self.table = table(num_features, 1 + dim, std)
        with torch.no_grad():
            self.table.weight[:, 0] = 0.0

    def forward(self, slots: Slots, training: bool) -> Embedded:
        rows = self.table(slots.feature)  # (..., S, 1 + D)
        linear, factors = rows[..., 0], rows[..., 1:]
        if not training:
            factors = factors * (linear != 0).unsqueeze(-1)
        return Embedded(linear * slots.weight, factors * slots.weight.unsqueeze(-1),
                        linear.square().sum(-1), factors.square().sum((-1, -2)))


def pooled(vectors: Tensor, widths: Sequence[int]) -> Tensor:
    """(..., S, D) -> (..., F, D): the slots of each field added up (of tags that is their mean)."""
    if all(width == 1 for width in widths):
        return vectors
    return torch.stack([part.sum(-2) for part in vectors.split(list(widths), -2)], -2)

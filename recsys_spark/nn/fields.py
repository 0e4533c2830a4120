"""Users, items and events as features: their numbers, and an embedding of them.

Feature 0 is out-of-vocabulary and padding, 1..U are the users and U + 1..U + I the items
themselves; the values of every field follow in order. A row has S slots (feature, weight): a
category has weight 1, of n tags each has 1 / n, a number is its own weight. Anything unknown (an
index that training never met, an unseen category, a missing column) is feature 0, whose embedding
is zero.

The fields of all users and items are buffers on the model's device, gathered by index: a batch
holds just two indices. They cost 8 bytes per slot of every user and item (a field has one slot,
tags as many as the longest list), on every rank and in every checkpoint, which can therefore score
without the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.core.contracts import Feature
from recsys_spark.nn.tables import table


class Slots(NamedTuple):
    feature: Tensor  # int64 (..., S): 0 where unknown
    weight: Tensor  # float (..., S)


class Fields(nn.Module):
    """Has no trained weights. Call `fill` before use; until then every field of users and items is
    unknown.
    """

    def __init__(self, num_users: int, num_items: int, features: Sequence[Feature]) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.features = {
            side: [f for f in features if f.side == side and f.kind != "time"]
            for side in ("user", "item", "event")
        }
        self.start: dict[
            str, int
            # Feature number of code 0 of each field; code 1 is the next number
        ] = {}
        self.num_features = num_users + num_items
        for feature in (f for side in self.features.values() for f in side):
            self.start[feature.name] = self.num_features
            self.num_features += 1 if feature.kind == "number" else len(feature.vocabulary)
        for side, rows in (("user", num_users + 1), ("item", num_items + 1)):
            slots = sum(feature.slots for feature in self.features[side])
            if slots:
                self.register_buffer(f"{side}_index", torch.zeros(rows, slots, dtype=torch.int32))
                self.register_buffer(f"{side}_weight", torch.zeros(rows, slots))

    @property
    def slots(self) -> int:
        """Of an example: its user's, its item's and its own."""
        return sum(sum(self.widths(side)) for side in self.features)

    def widths(self, side: str) -> list[int]:
        """Number of slots of each field in order; the user or item itself comes first."""
        return [
            *([] if side == "event" else [1]),
            *(feature.slots for feature in self.features[side]),
        ]

    def fill(self, side: str, index: Tensor, weight: Tensor) -> None:
        """Set the buffers: int (rows, S), float (rows, S), as `train.features` reads them."""
        self.get_buffer(f"{side}_index").copy_(index)
        self.get_buffer(f"{side}_weight").copy_(weight)

    def user(self, index: Tensor) -> Slots:
        """int (...) -> (..., 1 + S)"""
        return self._of("user", index.long(), 0)

    def item(self, index: Tensor) -> Slots:
        return self._of("item", index.long(), self.num_users)

    def event(self, codes: Tensor, numbers: Tensor) -> Slots:
        """int (B, E), float (B, N) -> (B, S), in the order of the fields. Fields without a column
        in the batch are unknown.
        """
        index, weight, columns, numbered = [], [], iter(codes.unbind(1)), iter(numbers.unbind(1))
        zeros = numbers.new_zeros(len(numbers))
        for feature in self.features["event"]:
            if feature.kind == "number":
                value = next(numbered, zeros)
                index.append(
                    torch.full(value.shape, self.start[feature.name] + 1, device=value.device)
                )
                weight.append(value)
            else:
                code = next(columns, zeros).long()
                index.append((code + self.start[feature.name]) * (code > 0))
                weight.append((code > 0).to(numbers.dtype))
        if not index:
            return Slots(
                zeros.long().new_zeros(len(numbers), 0), numbers.new_zeros(len(numbers), 0)
            )
        return Slots(torch.stack(index, 1), torch.stack(weight, 1))

    def _of(self, side: str, index: Tensor, start: int) -> Slots:
        entity = ((index + start) * (index > 0)).unsqueeze(-1)
        if not self.features[side]:
            return Slots(entity, torch.ones((), device=entity.device).expand(entity.shape))
        weight = self.get_buffer(f"{side}_weight")[index]
        return Slots(
            torch.cat([entity, self.get_buffer(f"{side}_index")[index].long()], -1),
            torch.cat([weight.new_ones(entity.shape), weight], -1),
        )


class Embedded(NamedTuple):
    """Embedding of the S slots of rows, each times its weight."""

    linear: Tensor  # (..., S)
    factors: Tensor  # (..., S, D)
    # (...): squared norms of the linear weights and of the factors of the row's features, without
    # the slots' weights
    bias_norms: Tensor
    norms: Tensor


class FeatureTable(nn.Module):
    """A linear weight and D factors for each feature, in one table, so that one look-up gets both.

    Linear weights start at exactly zero and only training changes them: a zero marks a feature
    absent from training, whose factors are still noise and count as zero outside training.

    slots: of an example (`Fields.slots`).
    """

    def __init__(self, num_features: int, dim: int, std: float, slots: int = 1) -> None:
        super().__init__()
        self.table = table(num_features, 1 + dim, std)
        self.table.per_example = slots
        with torch.no_grad():
            self.table.weight[:, 0] = 0.0

    def forward(self, slots: Slots, training: bool) -> Embedded:
        rows = self.table(slots.feature)  # (..., S, 1 + D)
        linear, factors = rows[..., 0], rows[..., 1:]
        if not training:
            factors = factors * (linear != 0).unsqueeze(-1)
        return Embedded(
            linear * slots.weight,
            factors * slots.weight.unsqueeze(-1),
            linear.square().sum(-1),
            factors.square().sum((-1, -2)),
        )


def pooled(vectors: Tensor, widths: Sequence[int]) -> Tensor:
    """(..., S, D) -> (..., F, D): the sum of the slots of each field (for tags, whose weights are 1
    / n, the mean).
    """
    if all(width == 1 for width in widths):
        return vectors
    return torch.stack([part.sum(-2) for part in vectors.split(list(widths), -2)], -2)

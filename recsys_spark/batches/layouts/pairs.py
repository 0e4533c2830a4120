"""Rows of a user and an item it met, with items it has not met, drawn anew in each step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys_spark.batches.base import Batch, Columns, row_numbers, tensor
from recsys_spark.core import columns as c


@dataclass(frozen=True)
class Pairs(Batch):
    """Pairs of a user, the anchor, and its positive item, with negatives."""

    user: Tensor  # int32 (B,)
    item: Tensor  # int32 (B,): the positive
    negative: Tensor  # int64 (B, N); N is 0 until negatives are drawn
    row: Tensor

    @classmethod
    def of(cls, columns: Columns) -> Pairs:
        """The batch without negatives."""
        user = tensor(columns[c.QUERY_IDX])
        empty = torch.empty(len(user), 0, dtype=torch.int64)
        return cls(user, tensor(columns[c.ITEM_IDX]), empty, row_numbers(columns, len(user)))

    @classmethod
    def examples_per_row(cls, num_negatives: int) -> int:
        """One example (pair) for each negative."""
        return max(1, num_negatives)

    def within(self, num_users: int, num_items: int) -> Pairs:
        user, item = self.user * (self.user <= num_users), self.item * (self.item <= num_items)
        return replace(self, user=user, item=item)

    def beside(self, negative: Tensor) -> Pairs:
        return replace(self, negative=negative)

    def describe(self, number: int) -> str:
        negatives = ", ".join(map(str, self.negative[number].tolist()))
        pair = f"item_idx {int(self.item[number])}, negatives {negatives}"
        return f"{super().describe(number)[:-1]}, {pair})"

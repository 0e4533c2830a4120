"""One event per row: user, item, label, weight, and the event's fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.batches.base import Batch, Columns, row_numbers, tensor
from recsys_spark.core import columns as c


@dataclass(frozen=True)
class Rows(Batch):
    """The fields of an event are in the order of `Sizes.fields`; without fields, E and N are 0 and
    ts is 0.
    """

    user: Tensor  # int32 (B,)
    item: Tensor  # int32 (B,)
    label: Tensor  # float (B,)
    weight: Tensor  # float (B,)
    row: Tensor
    # int32 (B, E): categories of the event, 0 where unknown
    codes: Tensor = None  # type: ignore[assignment]
    numbers: Tensor = None  # type: ignore[assignment]  # float (B, N): numbers of the event, 0: unknown
    ts: Tensor = None  # type: ignore[assignment]  # int64 (B,): time of the event

    def __post_init__(self) -> None:
        """Missing `codes`, `numbers` and `ts` become empty or zero."""
        rows = len(self.user)
        for name, empty in (
            ("codes", self.user.new_zeros(rows, 0)),
            ("numbers", self.label.new_zeros(rows, 0)),
            ("ts", self.row.new_zeros(rows)),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, empty)

    @classmethod
    def of(cls, columns: Columns) -> Rows:
        """A missing weight reads as 1, a missing label as 0."""
        user = tensor(columns[c.QUERY_IDX])
        label = tensor(columns[c.LABEL]) if c.LABEL in columns else torch.zeros(len(user))
        weight = tensor(columns[c.WEIGHT]) if c.WEIGHT in columns else torch.ones_like(label)
        ts: Any = tensor(columns[c.TS]) if c.TS in columns else None
        codes, numbers = _event(columns, np.int32), _event(columns, np.float32)
        row = row_numbers(columns, len(user))
        return cls(user, tensor(columns[c.ITEM_IDX]), label, weight, row, codes, numbers, ts)

    def targets(self) -> Tensor:
        return self.label

    def within(self, num_users: int, num_items: int) -> Rows:
        user, item = self.user * (self.user <= num_users), self.item * (self.item <= num_items)
        return replace(self, user=user, item=item)

    def beside(self, negative: Tensor) -> Rows:
        """B * (1 + N) rows: each positive (label 1) followed by its negatives (label 0, weight 1),
        each with its own row number. Fields of the event are not repeated.
        """
        wide = 1 + negative.shape[1]
        users = self.user[:, None].expand(-1, wide)
        items = torch.empty(len(self), wide, dtype=self.item.dtype)
        items[:, 0] = self.item
        items[:, 1:] = negative
        label = torch.zeros(items.shape, dtype=self.label.dtype)
        label[:, 0] = 1.0
        weight = torch.ones(items.shape, dtype=self.weight.dtype)
        weight[:, 0] = self.weight
        row = self.row[:, None] * wide + torch.arange(wide)
        flat = (users.reshape(-1), items.view(-1), label.view(-1), weight.view(-1), row.view(-1))
        return Rows(*flat)

    def describe(self, number: int) -> str:
        event = f"item_idx {int(self.item[number])}, label {float(self.label[number]):g}"
        return f"{super().describe(number)[:-1]}, {event})"


def _event(columns: Columns, dtype: type[np.generic]) -> Any:
    """(B, F): the columns of the event's fields that have this dtype, in the order of the manifest.
    None if there are none.
    """
    fields = [
        column
        for name, column in columns.items()
        if name.startswith(c.EVENT) and column.dtype == dtype
    ]
    return torch.from_numpy(np.stack(fields, axis=1)) if fields else None

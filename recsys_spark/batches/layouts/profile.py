"""One sparse vector per row: the events of a user, or of an item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.batches.base import Batch, Columns, Ragged, lists, row_numbers, tensor
from recsys_spark.core import columns as c


@dataclass(frozen=True)
class Profile(Batch):
    """One user per row, as CSR; dense only on the device, one batch at a time.

    Where the shard set is by item, a row is an item: `user` holds its index, and `items` the users
    who met it.
    """

    by_history = True

    user: Tensor  # int32 (B,)
    items: Ragged  # int32 item indices the user touched in training
    values: Tensor  # float (entries,), parallel to items.values
    row: Tensor
    # Ragged: int32 items whose values are to be predicted; none while training
    held: Ragged | Any = None
    held_values: Tensor | Any = None  # float (held entries,)
    by_item: bool = False

    def __post_init__(self) -> None:
        """Without `held`, every row has an empty list."""
        if self.held is None:
            empty = Ragged(torch.zeros_like(self.items.offsets), self.items.values[:0])
            object.__setattr__(self, "held", empty)
            object.__setattr__(self, "held_values", self.values[:0])

    @classmethod
    def of(cls, columns: Columns) -> Profile:
        """The column of the rows' index is the one without lists. A missing `held_value` reads as
        0.
        """
        by_item = isinstance(columns[c.ITEM_IDX], np.ndarray)
        row_column, entry_column = (
            (c.ITEM_IDX, c.QUERY_IDX) if by_item else (c.QUERY_IDX, c.ITEM_IDX)
        )
        index, items = tensor(columns[row_column]), lists(columns[entry_column])
        held: Ragged | None = None
        held_values: Tensor | None = None
        if c.HELD_IDX in columns:
            held = lists(columns[c.HELD_IDX])
            held_values = torch.zeros(len(held.values))
            if c.HELD_VALUE in columns:
                held_values = tensor(columns[c.HELD_VALUE].values)
        row = row_numbers(columns, len(index))
        values = tensor(columns[c.VALUE].values)
        return cls(index, items, values, row, held, held_values, by_item)

    @classmethod
    def rows_at_once(cls, cells: int, most: int, num_users: int, num_items: int) -> int:
        """Rows are dense in predictions: as many as fit in `cells`."""
        return max(1, cells // (1 + max(num_users, num_items)))

    def take(self, index: Tensor) -> Profile:
        (items, entries), (held, held_entries) = self.items.take(index), self.held.take(index)
        return replace(
            self,
            user=self.user[index],
            items=items,
            values=self.values[entries],
            row=self.row[index],
            held=held,
            held_values=self.held_values[held_entries],
        )

    def targets(self) -> Tensor:
        """The values of the held entries."""
        return self.held_values

    def within(self, num_users: int, num_items: int) -> Profile:
        most = num_users if self.by_item else num_items

        def known(entries: Ragged) -> Ragged:
            return Ragged(entries.offsets, entries.values * (entries.values <= most))

        return replace(self, items=known(self.items), held=known(self.held))

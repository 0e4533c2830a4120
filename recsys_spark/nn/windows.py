"""Windows of histories, packed: the events of all rows one after the other, without padding.

What works on each event by itself works on the packed (E, D); what works along a window is given
(B, L, D) with the padding behind the events, where neither causal attention nor a recurrent network
meets it before them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.nn import profiles


def recent(history: Ragged, length: int) -> Ragged:
    """The last `length` events of each history, those unknown to training (0) left out."""
    known = history.values > 0
    row = profiles.rows(history)[known]
    lengths = torch.bincount(row, minlength=len(history.offsets) - 1)
    ends = lengths.cumsum(0)
    from_end = ends[row] - torch.arange(len(row), device=row.device)  # 1: the last
    items = history.values[known][from_end <= length]
    offsets = torch.cat([ends.new_zeros(1), lengths.clamp(max=length).cumsum(0)])
    return Ragged(offsets, items)


class Places:
    """Where the events of packed windows are in their rows."""

    def __init__(self, windows: Ragged) -> None:
        lengths = windows.offsets.diff()
        self.rows, self.width = len(lengths), int(lengths.max()) if len(lengths) else 0
        row = profiles.rows(windows)
        self.place = torch.arange(len(row), device=row.device) - windows.offsets[row]  # (E,)
        self.from_end = lengths[row] - 1 - self.place  # (E,); 0: the last of its row
        self._cell = row * self.width + self.place
        self._lengths = lengths

    def spread(self, packed: Tensor) -> Tensor:
        """(E, D) -> (B, L, D), zeros behind each row's events."""
        cells = packed.new_zeros(self.rows * self.width, packed.shape[1])
        return cells.index_copy(0, self._cell, packed).view(self.rows, self.width, packed.shape[1])

    def packed(self, spread: Tensor) -> Tensor:
        """(B, L, D) -> (E, D)"""
        return spread.reshape(self.rows * self.width, -1).index_select(0, self._cell)

    def newest(self, items: Tensor, number: int) -> Tensor:
        """(E,) -> (E, number): each event at the end of those before it in its row, 0 where there
        are fewer.
        """
        back = torch.arange(number - 1, -1, -1, device=items.device)
        entry = torch.arange(len(items), device=items.device)[:, None] - back
        return items[entry.clamp(min=0)] * (self.place[:, None] >= back)

    def mean(self, packed: Tensor, number: int) -> Tensor:
        """(E, D) -> (E, D): the mean of each event and those before it in its row, `number` of them
        at most.
        """
        sums = self.spread(packed).cumsum(1)
        before = F.pad(sums, (0, 0, number, 0))[:, : self.width]
        count = (self.place + 1).clamp(max=number).to(packed.dtype)
        return self.packed(sums - before) / count[:, None]

    def last(self, packed: Tensor) -> Tensor:
        """(E, D) -> (B, D): each row's last event, zeros where it has none."""
        ends = self._lengths.cumsum(0) - 1
        some = self._lengths > 0
        last = packed.new_zeros(self.rows, packed.shape[1])
        return last.index_copy(0, some.nonzero()[:, 0], packed[ends[some]])

"""The interface of all batch classes, and lists of different lengths as CSR.

Shapes and indices: models/base.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

Columns = Mapping[str, Any]  # name -> numpy array, or offsets and values of lists (numpy)


class Ragged(NamedTuple):
    """CSR: row b holds values[offsets[b] : offsets[b + 1]]."""

    offsets: Tensor  # int64 (B + 1,)
    values: Tensor  # (entries,)

    def dense(self, width: int, weights: Tensor | None = None) -> Tensor:
        """(B, width), float32 or the dtype of `weights`: row b has `weights` (default 1) at the
        columns `values`.
        """
        device = self.offsets.device
        rows = torch.repeat_interleave(
            torch.arange(len(self.offsets) - 1, device=device), self.offsets.diff()
        )
        ones = torch.ones(len(self.values), device=device) if weights is None else weights
        cells = torch.zeros(len(self.offsets) - 1, width, dtype=ones.dtype, device=ones.device)
        cells[rows, self.values.long()] = ones
        return cells

    def take(self, index: Tensor) -> tuple[Ragged, Tensor]:
        """The lists at `index` (b,), and the former positions of their entries, int64
        (entries,).
        """
        starts, lengths = self.offsets[index], self.offsets.diff()[index]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        entry = torch.arange(int(offsets[-1]), device=offsets.device)
        source = torch.repeat_interleave(starts - offsets[:-1], lengths) + entry
        return Ragged(offsets, self.values[source]), source


class Batch:
    """Base of the batch classes, one per layout: frozen data classes of tensors of B rows.

    A subclass has `user` (B,) and `row`, and implements what depends on its layout.
    """

    # Whether its models read every event of a history; false: each item once, at its last time
    repeats: ClassVar[bool] = False
    # Whether its models score a query by its history alone, also one that came after training
    by_history: ClassVar[bool] = False

    user: Tensor  # int32 (B,): the row's query_idx, which models call its user
    row: Tensor  # int64 (B,): the row's number in this epoch, the same on any number of ranks

    @classmethod
    def of(cls, columns: Columns) -> Self:
        """From the columns of B rows, as a reader or a scorer gives them, without copying.

        Missing columns have the layout's defaults: weight 1, label 0.
        """
        raise NotImplementedError

    @classmethod
    def examples_per_row(cls, num_negatives: int) -> int:
        """Number of examples (for examples/s) that a shard's row counts as: itself and its
        negatives.
        """
        return 1 + num_negatives

    @classmethod
    def rows_at_once(cls, cells: int, most: int, num_users: int, num_items: int) -> int:
        """Rows to predict at a time: `most`, or fewer where the model needs dense rows.

        cells: maximum number of elements in memory at once.
        """
        return most

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Tensor) -> Self:
        """The rows at `index`, int64 (b,)."""
        return self._each(lambda value: value[index])

    def split(self, most: int) -> list[Self]:
        """Parts of at most `most` rows, in order."""
        return [self.take(index) for index in torch.arange(len(self)).split(most)]

    def targets(self) -> Tensor:
        """The labels that `Model.predict` predicts, in its order: one for each row or held
        entry.
        """
        raise NotImplementedError

    def within(self, num_users: int, num_items: int) -> Self:
        """The batch with indices beyond the tables set to 0: unknown."""
        raise NotImplementedError

    def positives(self) -> tuple[Tensor, Tensor]:
        """(user, number in the epoch) of each positive: of its rows, unless a row has several."""
        return self.user, self.row

    def beside(self, negative: Tensor) -> Self:
        """The batch with negative items (positives, N) added."""
        raise NotImplementedError

    def describe(self, number: int) -> str:
        """Text that names row `number`, for the error message about it."""
        return f"row {int(self.row[number])} (query_idx {int(self.user[number])})"

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """The batch on the device, with floating columns in `dtype`. From page-locked memory the
        copy to a GPU continues after the call returns.
        """

        def moved(value: Tensor) -> Tensor:
            floating = dtype if value.is_floating_point() else None
            return value.to(device, floating, non_blocking=True)

        return self._each(moved)

    def pinned(self) -> Self:
        """The same batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, Ragged):
                return Ragged(change(value.offsets), change(value.values))
            return change(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var,arg-type]


def tensor(column: np.ndarray) -> Tensor:
    """Without copying, unless the memory is read-only."""
    # Arrow's memory is read-only; torch does not support that and warns. No code here writes into a
    # column.
    return torch.from_numpy(column if column.flags.writeable else column.copy())


def lists(column: Any) -> Ragged:
    """A column of lists: offsets and values in numpy."""
    return Ragged(tensor(column.offsets).long(), tensor(column.values))


def row_numbers(columns: Columns, rows: int) -> Tensor:
    """The numbers of the rows in the epoch; for rows outside an epoch, 0, 1, ..."""
    return tensor(columns["row"]) if "row" in columns else torch.arange(rows)

"""Columns as a reader gives them (numpy) -> the batch class of the layout (torch), without copying."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.core import columns
from recsys_spark.models.batches import Batch, Pairs, Profile, Ragged, Rows


def collate(numbers: dict[str, Any], layout: str) -> Batch:
    """A batch of B rows. A missing `weight` is 1; pairs come without negatives."""
    row = _tensor(numbers["row"])
    if layout == "pointwise":
        label = _tensor(numbers[columns.LABEL])
        weight = _tensor(numbers[columns.WEIGHT]) if columns.WEIGHT in numbers else torch.ones(len(label), dtype=label.dtype)
        ts: Any = _tensor(numbers[columns.TS]) if columns.TS in numbers else None
        return Rows(_tensor(numbers[columns.USER_IDX]), _tensor(numbers[columns.ITEM_IDX]), label, weight, row,
                    _event(numbers, np.int32), _event(numbers, np.float32), ts)
    if layout == "pairs":
        user = _tensor(numbers[columns.USER_IDX])
        return Pairs(user, _tensor(numbers[columns.ITEM_IDX]), torch.empty(len(user), 0, dtype=torch.int64), row)
    assert layout == "profile", f"layout {layout}"
    of, met = numbers[columns.USER_IDX], numbers[columns.ITEM_IDX]
    if isinstance(of, np.ndarray):
        return Profile(_tensor(of), _lists(met), _tensor(numbers[columns.VALUE].values), row, *_held(numbers))
    return Profile(_tensor(met), _lists(of), _tensor(numbers[columns.VALUE].values), row, *_held(numbers))  # by item


def _held(numbers: dict[str, Any]) -> tuple[Ragged, Tensor] | tuple[()]:
    """The held-out part of a profile and its values. Nothing where the shard set has none."""
    if columns.HELD_IDX not in numbers:
        return ()
    return _lists(numbers[columns.HELD_IDX]), _tensor(numbers[columns.HELD_VALUE].values)


def _lists(column: Any) -> Ragged:
    return Ragged(_tensor(column.offsets).long(), _tensor(column.values))


def _event(numbers: dict[str, Any], dtype: type[np.generic]) -> Any:
    """(B, F): the columns of the event's fields that have this dtype, in the order of the manifest. None where there is no such."""
    found = [column for name, column in numbers.items() if name.startswith(columns.EVENT) and column.dtype == dtype]
    return torch.from_numpy(np.stack(found, axis=1)) if found else None


def take(batch: Batch, index: Tensor) -> Batch:
    """The rows at `index`, int64 (b,)."""
    if not isinstance(batch, Profile):
        return replace(batch, **{f.name: getattr(batch, f.name)[index] for f in fields(batch)})  # type: ignore[type-var,arg-type]
    (items, where), (held, held_where) = _rows(batch.items, index), _rows(batch.held, index)
    return Profile(batch.user[index], items, batch.values[where], batch.row[index], held, batch.held_values[held_where])


def _rows(lists: Ragged, index: Tensor) -> tuple[Ragged, Tensor]:
    """The lists at `index`, and where their entries were."""
    starts, lengths = lists.offsets[index], lists.offsets.diff()[index]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    where = torch.repeat_interleave(starts - offsets[:-1], lengths) + torch.arange(int(offsets[-1]), device=offsets.device)
    return Ragged(offsets, lists.values[where]), where


def _tensor(column: np.ndarray) -> Tensor:
    # Arrow's memory is read-only, torch has no such notion and warns: nothing here writes into a batch's columns.
    return torch.from_numpy(column if column.flags.writeable else column.copy())

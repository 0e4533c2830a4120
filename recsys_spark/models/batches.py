"""What a model reads: the batches of each layout, and whom to score for.

Shapes and indices: models/base.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """CSR: row b holds values[offsets[b] : offsets[b + 1]]."""

    offsets: Tensor  # int64 (B + 1,)
    values: Tensor  # (entries,)

    def dense(self, width: int, weights: Tensor | None = None) -> Tensor:
        """Row b has `weights` (default 1) at the columns `values`. float32 or the dtype of weights, (B, width)."""
        rows = torch.repeat_interleave(torch.arange(len(self.offsets) - 1, device=self.offsets.device), self.offsets.diff())
        ones = torch.ones(len(self.values), device=self.values.device) if weights is None else weights
        made = torch.zeros(len(self.offsets) - 1, width, dtype=ones.dtype, device=ones.device)
        made[rows, self.values.long()] = ones
        return made


class Batch:
    """Base of the batch classes (one per layout): tensors of B rows."""

    row: Tensor  # int64 (B,): the row's own number in this epoch, the same on any number of ranks

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Any:
        """Moved to the device; floating columns in `dtype`. From page-locked memory the copy to a GPU goes on after this has returned."""
        return self._each(lambda value: value.to(device, dtype if value.is_floating_point() else None, non_blocking=True))

    def pinned(self) -> Any:
        """The same in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, made: Callable[[Tensor], Tensor]) -> Any:
        def of(value: Any) -> Any:
            if isinstance(value, Ragged):
                return Ragged(made(value.offsets), made(value.values))
            return made(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: of(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var,arg-type]


@dataclass(frozen=True)
class Rows(Batch):
    """Layout `pointwise`. The fields of its event come in the order of `Sizes.fields`; without any, E and N are 0 and ts is 0."""

    user: Tensor  # int32 (B,)
    item: Tensor  # int32 (B,)
    label: Tensor  # float (B,)
    weight: Tensor  # float (B,)
    row: Tensor
    codes: Tensor = None  # type: ignore[assignment]  # int32 (B, E): categories of the event, 0 where unknown
    numbers: Tensor = None  # type: ignore[assignment]  # float (B, N): its numbers, 0 where unknown
    ts: Tensor = None  # type: ignore[assignment]  # int64 (B,): when it happened

    def __post_init__(self) -> None:
        """No `codes`, `numbers` or `ts` given: none known."""
        rows = len(self.user)
        for name, empty in (("codes", self.user.new_zeros(rows, 0)), ("numbers", self.label.new_zeros(rows, 0)),
                            ("ts", self.row.new_zeros(rows))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, empty)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Profile(Batch):
    """Layout `profile`: one user a row, as CSR; dense only on the device, a batch at a time.

    Where the shard set is by item, a row is an item: `user` holds its index, and `items` the users who met it.
    """

    user: Tensor  # int32 (B,)
    items: Ragged  # int32 item indices the user touched in training
    values: Tensor  # float (entries,), beside items.values
    row: Tensor
    held: Ragged | Any = None  # Ragged: int32 items whose values are to be predicted; none while training
    held_values: Tensor | Any = None  # float (held entries,)

    def __post_init__(self) -> None:
        """No `held` given: none in any row."""
        if self.held is None:
            object.__setattr__(self, "held", Ragged(torch.zeros_like(self.items.offsets), self.items.values[:0]))
            object.__setattr__(self, "held_values", self.values[:0])

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Pairs(Batch):
    """Layout `pairs`: an anchor (the user) and an item it met, beside items it has not met, which are drawn anew at each step."""

    user: Tensor  # int32 (B,)
    item: Tensor  # int32 (B,): the positive
    negative: Tensor  # int64 (B, N); N is 0 until they are drawn
    row: Tensor

    def __len__(self) -> int:
        return len(self.user)


BATCHES: dict[str, type[Batch]] = {"pointwise": Rows, "profile": Profile, "pairs": Pairs}


@dataclass(frozen=True)
class Query:
    """Whom to score for: a user, and what is known of the past (models of layout `profile` score from that alone).

    The moment is unknown: fields of the event are out of vocabulary and add nothing, and it is the last training time.
    """

    user: Tensor  # int32 (B,); 0: unknown user
    history: Ragged  # int32 item indices
    values: Tensor | None = None  # float (entries,), beside history.values: what the user thought of them; None: unknown

"""A step of a session a row: its lane, and whether the lane begins anew with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recsys_spark.batches.base import Batch, Columns, row_numbers, tensor
from recsys_spark.core import columns as c


@dataclass(frozen=True)
class Lanes(Batch):
    user: Tensor  # int32 (B,)
    item: Tensor  # int32 (B,)
    label: Tensor  # float (B,)
    weight: Tensor  # float (B,); 0: padding
    lane: Tensor  # int32 (B,)
    first: Tensor  # bool (B,)
    row: Tensor

    @classmethod
    def of(cls, columns: Columns) -> Lanes:
        user = tensor(columns[c.QUERY_IDX])
        return cls(
            user,
            tensor(columns[c.ITEM_IDX]),
            tensor(columns[c.LABEL]),
            tensor(columns[c.WEIGHT]),
            tensor(columns["lane"]),
            tensor(columns["first"]).bool(),
            row_numbers(columns, len(user)),
        )

    def targets(self) -> Tensor:
        return self.label

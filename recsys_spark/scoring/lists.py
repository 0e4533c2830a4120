"""Arrow's list columns to CSR and padded tensors, and ranked tensors back to list columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged


def ragged(column: pa.ListArray, dtype: type[np.generic] = np.int32) -> Ragged:
    """A list column as CSR of this dtype; null is an empty list."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(
        torch.from_numpy(offsets),
        torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).astype(dtype)),
    )


def padded(lists: Ragged) -> Tensor:
    """int64 (B, C): the rows of a CSR, padded with 0 to the longest; C is at least 1."""
    lengths = lists.offsets.diff()
    items = torch.zeros(len(lengths), max([1, *lengths.tolist()]), dtype=torch.int64)
    items[torch.arange(items.shape[1]) < lengths[:, None]] = lists.values.long()
    return items


def columns(items: Tensor, scores: Tensor) -> tuple[pa.Array, pa.Array]:
    """list<int32> and list<float32> from (B, K) each, without the positions whose item is 0."""
    filled = items > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(1).numpy())]).astype(np.int32))
    return (
        pa.ListArray.from_arrays(offsets, pa.array(items[filled].numpy())),
        pa.ListArray.from_arrays(offsets, pa.array(scores[filled].numpy())),
    )

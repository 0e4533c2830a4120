"""The fields of the events to be predicted, as columns of a record batch -> what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from recsys_spark.core.contracts import Feature


def encoded(batch: pa.RecordBatch, fields: Sequence[Feature]) -> tuple[Tensor, Tensor, Tensor]:
    """(codes int32 (B, E), numbers float (B, N), ts int64 (B,)) by the model's own vocabularies and normalisers.

    A value that training never met, a null and a missing column are code 0, or a number that adds nothing; a missing time is the last
    one of training.
    """
    mine = [field for field in fields if field.side == "event"]
    codes = [_code(batch, field) for field in mine if field.kind in ("category", "tags")]
    numbers = [_number(batch, field) for field in mine if field.kind == "number"]
    times = [_time(batch, field) for field in mine if field.kind == "time"]
    return (_beside(codes, batch.num_rows, np.int32), _beside(numbers, batch.num_rows, np.float32),
            torch.from_numpy(times[0] if times else np.zeros(batch.num_rows, np.int64)))


def _code(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int32)
    found = pc.index_in(batch.column(field.column).cast(pa.string()), value_set=pa.array(field.vocabulary, pa.string()))
    return pc.add(pc.fill_null(found, -1), 1).to_numpy(zero_copy_only=False).astype(np.int32)


def _number(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.zeros(batch.num_rows, np.float32)
    values = batch.column(field.column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.nan_to_num((values - field.mean) / field.std, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _time(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.full(batch.num_rows, int(field.high), np.int64)
    return pc.fill_null(batch.column(field.column).cast(pa.int64()), int(field.high)).to_numpy(zero_copy_only=False).copy()


def _beside(columns: list[np.ndarray], rows: int, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.stack(columns, axis=1) if columns else np.zeros((rows, 0), dtype))

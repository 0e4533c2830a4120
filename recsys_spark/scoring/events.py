"""Encodes the fields of the events to be predicted, columns of a record batch, as in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Feature
from recsys_spark.scoring.lists import ragged


def columns_of(batch: pa.RecordBatch, fields: Sequence[Feature]) -> dict[str, Any]:
    """The columns of a batch class (`Batch.of`), from those of a record batch.

    Numbers become arrays, lists offsets and values. Fields of the event are encoded by the model's
    own vocabularies and normalisers. A value absent from training, a null and a missing column
    become code 0 or the number 0.0; a missing time becomes the last time of training.
    """
    columns: dict[str, Any] = {}
    for name in (c.QUERY_IDX, c.ITEM_IDX, c.HELD_IDX):
        if name in batch.schema.names:
            columns[name] = _column(batch.column(name), np.int32)
    if c.VALUE in batch.schema.names:
        columns[c.VALUE] = _column(batch.column(c.VALUE), np.float32)
    for field in (field for field in fields if field.side == "event"):
        encode = {"number": _number, "time": _time}.get(field.kind, _code)
        columns[field.column] = encode(batch, field)
    return columns


def _column(column: pa.Array, dtype: type[np.generic]) -> Any:
    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False).astype(dtype)
    lists = ragged(column, dtype)
    return Ragged(lists.offsets.numpy(), lists.values.numpy())  # type: ignore[arg-type]


def _code(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int32)
    positions = pc.index_in(
        batch.column(field.column).cast(pa.string()),
        value_set=pa.array(field.vocabulary, pa.string()),
    )
    return pc.add(pc.fill_null(positions, -1), 1).to_numpy(zero_copy_only=False).astype(np.int32)


def _number(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.zeros(batch.num_rows, np.float32)
    values = batch.column(field.column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.nan_to_num((values - field.mean) / field.std, nan=0.0, posinf=0.0, neginf=0.0).astype(
        np.float32
    )


def _time(batch: pa.RecordBatch, field: Feature) -> np.ndarray:
    if field.column not in batch.schema.names:
        return np.full(batch.num_rows, int(field.high), np.int64)
    return (
        pc.fill_null(batch.column(field.column).cast(pa.int64()), int(field.high))
        .to_numpy(zero_copy_only=False)
        .copy()
    )

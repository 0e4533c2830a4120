"""Columns of rows in memory: a numpy array, or `Ragged` where rows have lists of different
lengths.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import numpy as np
import pyarrow as pa

from recsys_spark.core.contracts import Column
from recsys_spark.core.errors import ShardError


class Ragged(NamedTuple):
    """CSR: row i holds values[offsets[i] : offsets[i + 1]]. `offsets[0]` is 0."""

    offsets: np.ndarray  # int64 (rows + 1,)
    values: np.ndarray


Block = np.ndarray | Ragged


def empty(column: Column) -> Block:
    """A block without rows."""
    if column.shape == (-1,):
        return Ragged(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=column.dtype))
    return np.zeros((0, *column.shape), dtype=column.dtype)


def cut(block: Block, first: int, last: int) -> Block:
    """Rows first..last - 1, without copying values."""
    if isinstance(block, Ragged):
        offsets = block.offsets[first : last + 1]
        return Ragged(offsets - offsets[0], block.values[offsets[0] : offsets[-1]])
    return block[first:last]


def join(blocks: Sequence[Block]) -> Block:
    """The blocks concatenated; at least one."""
    if isinstance(blocks[0], Ragged):
        offsets, values = zip(*blocks, strict=True)
        ends = np.cumsum([0, *(len(v) for v in values)])
        shifted = [o[1:] + end for o, end in zip(offsets, ends[:-1], strict=True)]
        return Ragged(np.concatenate([np.zeros(1, np.int64), *shifted]), np.concatenate(values))
    return np.concatenate(
        blocks, out=_room((sum(map(len, blocks)), *blocks[0].shape[1:]), blocks[0].dtype)
    )


def _room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array from Arrow's allocator."""
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(pa.allocate_buffer(size), dtype=dtype).reshape(shape)


def take(block: Block, rows: np.ndarray) -> Block:
    """A new block of the given rows, which must exist (mode="clip" avoids a check and a buffer in
    numpy).
    """
    if not isinstance(block, Ragged):
        return np.take(
            block, rows, axis=0, out=_room((len(rows), *block.shape[1:]), block.dtype), mode="clip"
        )
    lengths = np.take(np.diff(block.offsets), rows, mode="clip")
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    source = np.repeat(np.take(block.offsets, rows, mode="clip") - offsets[:-1], lengths)
    source += np.arange(offsets[-1])
    return Ragged(offsets, np.take(block.values, source, mode="clip"))


def converted(column: pa.ChunkedArray, as_column: Column, where: str) -> pa.ChunkedArray:
    """A column of a table cast to the type of the shard set (a table has long and double). Raises
    ShardError where a value does not fit.
    """
    try:
        return column.cast(pa.from_numpy_dtype(np.dtype(as_column.dtype)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise _unfit(where, as_column, str(problem)) from None


def from_arrow(column: pa.ChunkedArray, as_column: Column, where: str) -> Block:
    """The block of a column, without copying where it is one chunk. Raises ShardError at `where`
    when type, shape or a null contradicts the manifest.
    """
    if column.null_count:
        raise _unfit(where, as_column, f"{column.null_count} nulls")
    if not as_column.shape:
        return _values(column, as_column, where)
    if not (
        pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
    ):
        raise _unfit(where, as_column, str(column.type))
    values = _values(
        pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=column.type.value_type),
        as_column,
        where,
    )
    lengths = np.concatenate(
        [
            np.zeros(0, np.int64),
            *(chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks),
        ]
    )
    if as_column.shape == (-1,):
        return Ragged(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]), values
        )
    width = int(np.prod(as_column.shape))
    if (lengths != width).any():
        raise _unfit(where, as_column, f"a list of {int(lengths[lengths != width][0])}")
    return values.reshape(-1, *as_column.shape)


def _values(column: pa.ChunkedArray, as_column: Column, where: str) -> np.ndarray:
    if column.type != pa.from_numpy_dtype(np.dtype(as_column.dtype)) or column.null_count:
        raise _unfit(
            where,
            as_column,
            f"{column.null_count} nulls" if column.null_count else str(column.type),
        )
    parts: list[Any] = [chunk.to_numpy() for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, as_column.dtype), *parts])


def _unfit(where: str, column: Column, problem: str) -> ShardError:
    shape = f" of shape {column.shape}" if column.shape else ""
    return ShardError(
        f"{where}, column {column.name}",
        found=problem,
        expected=f"{column.dtype}{shape} without nulls, as the manifest says",
        remedy="run export_shards again",
    )

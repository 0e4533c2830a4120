"""Arrays by index: one .npy file with a row of fixed shape for every user (or item)."""

from __future__ import annotations

import math
import posixpath
import uuid
from typing import Iterable, Iterator, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core.contracts import Array
from recsys_spark.core.errors import ShardError
from recsys_spark.etl.shards.npy import Npy
from recsys_spark.etl.shards.writer import place

PIECE_BYTES = 1 << 26  # of a dense piece, which a task and the driver hold
PIECE = "_piece"
_DENSE = pa.schema([("piece", pa.int32()), ("path", pa.string()), ("wrong", pa.int64())])


def write(
    rows: DataFrame,
    name: str,
    folder: str,
    *,
    num_rows: int,
    shape: tuple[int, ...],
    dtype: Literal["float16", "float32", "uint8", "int32", "int64"],
) -> Array:
    """(index int, numbers array<...>), the flattened numbers of each row -> `<name>.npy` under
    `folder`, (num_rows + 1, *shape); missing rows and row 0 are zeros.

    Executors write ranges of rows densely, the driver concatenates them. Raises ShardError for a
    row of another size, or when the folder is full.
    """
    size = math.prod(shape)
    width = max(1, PIECE_BYTES // max(1, size * np.dtype(dtype).itemsize))
    ranges = math.ceil((num_rows + 1) / width)
    columns = rows.columns
    numbered = rows.select(F.expr(f"{columns[0]} div {width}").cast("int").alias(PIECE), *columns)
    together = numbered.repartitionById(ranges, F.col(PIECE)).sortWithinPartitions(
        PIECE, columns[0]
    )

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return _dense_pieces(batches, folder, width, size, dtype)

    facts = together.mapInArrow(task, "piece int, path string, wrong bigint").toArrow().to_pylist()
    for fact in facts:
        if fact["wrong"] is not None:
            raise ShardError(
                f"side file {name}, row {fact['wrong']}",
                found="another number of values, or a null",
                expected=f"{size} numbers",
                remedy="give every entity values of one shape, or none",
            )
    system, root = place(folder)
    pieces = {fact["piece"]: fact["path"] for fact in facts}
    target = posixpath.join(root, f"{name}.npy")
    with Npy(system, target, np.dtype(dtype).str, (num_rows + 1, *shape)) as out:
        for number in range(ranges):
            length = min(width, num_rows + 1 - number * width) * size * np.dtype(dtype).itemsize
            data = bytes(length)
            if number in pieces:
                with system.open_input_stream(pieces[number]) as source:
                    data = source.read()[:length]
            out.write(data)
    for path in pieces.values():
        system.delete_file(path)
    return Array(path=f"{name}.npy", dtype=dtype, rows=num_rows + 1, shape=shape, digest=out.digest)


def _dense_pieces(
    batches: Iterable[pa.RecordBatch], folder: str, width: int, size: int, dtype: str
) -> Iterator[pa.RecordBatch]:
    """One task: rows (piece, index, numbers) by piece -> a file of width * size numbers each."""
    system, root = place(folder)
    block, current = np.zeros((width, size), dtype), -1

    def close() -> pa.RecordBatch:
        path = posixpath.join(root, f".tmp-array-{current}-{uuid.uuid4().hex[:8]}")
        with system.open_output_stream(path) as out:
            out.write(block.tobytes())
        return pa.RecordBatch.from_pylist([{"piece": current, "path": path, "wrong": None}], _DENSE)

    for batch in batches:
        pieces, index = (batch.column(i).to_numpy(zero_copy_only=False) for i in (0, 1))
        numbers = batch.column(2)
        lengths = numbers.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
        if (lengths != size).any() or numbers.flatten().null_count:
            wrong = int(index[(lengths != size).argmax()])
            yield pa.RecordBatch.from_pylist([{"piece": -1, "path": "", "wrong": wrong}], _DENSE)
            return
        values = numbers.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        for piece in np.unique(pieces):
            if piece != current:
                if current >= 0:
                    yield close()
                block[:], current = 0, int(piece)
            own = pieces == piece
            block[index[own] - current * width] = values[own].astype(dtype)
    if current >= 0:
        yield close()

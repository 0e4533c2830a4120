"""Queries that no model has met, by their histories alone: record batches for a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from recsys_spark.core import columns as c
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.queries import HISTORY, OFFSET, ROWS, SEEN, VALUES, VECTOR, WEIGHTS

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())


def columns(folder: Path) -> dict[str, pa.DataType]:
    """The columns that an index has of its own queries: these are new to it, so all are null."""
    if not (folder / indices.FILE).exists() or not (facts := indices.facts(folder)).queries:
        return {}
    if facts.kind == "dot":
        return {VECTOR: _FLOATS}
    own = {ROWS: _INTS, WEIGHTS: _FLOATS}
    return own | ({OFFSET: pa.float32()} if facts.dampen is not None else {})


def batch(
    histories: Sequence[Sequence[int]],
    seen: Sequence[Sequence[int]],
    own: dict[str, pa.DataType],
) -> pa.RecordBatch:
    """histories, seen: item numbers of each query, oldest first; own: of `columns`."""
    values = [[1.0] * len(history) for history in histories]
    arrays = {
        c.QUERY_IDX: pa.array([0] * len(histories), pa.int32()),
        HISTORY: pa.array(histories, _INTS),
        SEEN: pa.array(seen, _INTS),
        VALUES: pa.array(values, _FLOATS),
    }
    return pa.RecordBatch.from_pydict(
        arrays | {name: pa.nulls(len(histories), kind) for name, kind in own.items()}
    )

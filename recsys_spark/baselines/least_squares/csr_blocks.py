"""Events as two sets of CSR blocks on shared storage, for alternating solvers: by user (its items)
and by item (its users).

A block is a range of rows with about an equal share of the work, in two .npy files that tasks map
into memory. Executors write them from one shuffle of all events; a task holds one block. The driver
holds the number of events of every row (16 bytes per row).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.least_squares.factors import save
from recsys_spark.core import columns as c

# a task of tens of milliseconds with 64 factors: more tasks than cores even for a million events
EVENTS_PER_BLOCK = 125_000
MAX_BLOCKS = 1000  # maximum per side: with more events the blocks grow
ROW_WORK = 32  # work to solve a row's equations, in events

_DEALT = "block int, row int, entry int"
_DEALT_SCHEMA = pa.schema([("block", pa.int32()), ("row", pa.int32()), ("entry", pa.int32())])
_WRITTEN = "block int, entries bigint"


@dataclass(frozen=True)
class Side:
    """Rows of users or of items: block b has the rows bounds[b] .. bounds[b + 1] - 1; row 0 is
    padding and empty.
    """

    folder: str
    bounds: tuple[int, ...]
    active: int  # rows with an entry

    @property
    def blocks(self) -> int:
        return len(self.bounds) - 1

    def block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(indptr of the block's rows, indices), memory-mapped. Indices of a row are sorted and
        distinct.
        """
        return tuple(
            np.load(path, mmap_mode="r", allow_pickle=False) for path in _paths(self.folder, number)
        )

    def lengths(self) -> Iterator[NDArray[np.int64]]:
        """Entries of every row, block after block."""
        for number in range(self.blocks):
            yield np.diff(self.block(number)[0])


def write(
    events: DataFrame, folder: Path, *, num_users: int, num_items: int, blocks: int = 0
) -> tuple[Side, Side]:
    """events (query_idx, item_idx), repeats allowed -> (side of users, side of items). blocks: per
    side; 0: by the number of events, so that equal events make equal blocks on any machine.
    """
    counts = _counts(events, num_users, num_items)
    num_blocks = blocks or min(MAX_BLOCKS, math.ceil(int(counts[0].sum()) / EVENTS_PER_BLOCK))
    sides = tuple(
        Side(str(folder / name), cut(rows, num_blocks), int((rows > 0).sum()))
        for name, rows in zip(("users", "items"), counts, strict=True)
    )
    for side in sides:
        Path(side.folder).mkdir(parents=True, exist_ok=True)
    assigned = events.select(c.QUERY_IDX, c.ITEM_IDX).mapInArrow(
        partial(_deal, sides[0].bounds, sides[1].bounds), _DEALT
    )
    ordered = assigned.repartitionById(
        sides[0].blocks + sides[1].blocks, F.col("block")
    ).sortWithinPartitions("row", "entry")
    ordered.mapInArrow(partial(_write, sides), _WRITTEN).collect()
    return sides[0], sides[1]


def cut(counts: NDArray[np.int64], blocks: int) -> tuple[int, ...]:
    """Bounds of at most `blocks` ranges of rows with about equal work and at least one event each.
    counts (R + 1,): events by row.
    """
    work = np.cumsum(counts + ROW_WORK * (counts > 0))
    # Cuts are made only after a row with events
    inner = np.unique(np.searchsorted(work, work[-1] * np.arange(1, blocks) / blocks) + 1)
    return (0, *inner[work[inner - 1] < work[-1]].tolist(), len(counts))


def _counts(
    events: DataFrame, num_users: int, num_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Events of each user (U + 1,) and of each item (I + 1,)."""
    users, items = (
        events.select(F.lit(side).alias("side"), F.col(name).alias("row"))
        for side, name in enumerate((c.QUERY_IDX, c.ITEM_IDX))
    )
    counted = users.unionByName(items).groupBy("side", "row").count().toArrow()
    side, row, count = (counted.column(name).to_numpy() for name in ("side", "row", "count"))
    totals = np.zeros(num_users + 1, dtype=np.int64), np.zeros(num_items + 1, dtype=np.int64)
    for number, counts in enumerate(totals):
        counts[row[side == number]] = count[side == number]
    return totals


def _deal(
    users: tuple[int, ...], items: tuple[int, ...], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Emits every event twice: for the block of its user and for the block of its item. Item blocks
    are numbered after all user blocks.
    """
    for batch in batches:
        user, item = (batch.column(i).to_numpy() for i in range(2))
        for row, entry, bounds, first in (
            (user, item, users, 0),
            (item, user, items, len(users) - 1),
        ):
            block = np.searchsorted(bounds, row, side="right") - 1 + first
            yield pa.RecordBatch.from_arrays(
                [pa.array(block.astype(np.int32)), pa.array(row), pa.array(entry)],
                schema=_DEALT_SCHEMA,
            )


def _write(sides: tuple[Side, ...], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One task: all rows of one block, sorted -> its two files, which are renamed to their names
    when complete.
    """
    held = [batch for batch in batches if batch.num_rows]
    if not held:
        return
    number, (row, entry) = (
        held[0].column(0)[0].as_py(),
        (np.concatenate([batch.column(i).to_numpy() for batch in held]) for i in (1, 2)),
    )
    side = sides[0] if number < sides[0].blocks else sides[1]
    own = number if side is sides[0] else number - sides[0].blocks
    new = np.append(True, (row[1:] != row[:-1]) | (entry[1:] != entry[:-1]))
    rows = np.arange(side.bounds[own], side.bounds[own + 1] + 1)
    indptr = np.searchsorted(row[new], rows).astype(np.int64)
    for path, array in zip(
        _paths(side.folder, own), (indptr, entry[new].astype(np.int32)), strict=True
    ):
        save(path, array)
    yield pa.RecordBatch.from_pydict(
        {"block": pa.array([number], pa.int32()), "entries": pa.array([indptr[-1]], pa.int64())}
    )


def _paths(folder: str, number: int) -> tuple[Path, Path]:
    return Path(folder, f"{number:05d}.indptr.npy"), Path(folder, f"{number:05d}.indices.npy")

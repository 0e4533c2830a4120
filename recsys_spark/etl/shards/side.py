"""Side files: a list for every user (or item), as CSR in .npy files that readers map into memory:
sorted items without repeats, or in the given order with repeats, optionally with a number for each
entry.

A task writes the items of a range of users as raw int32, and the number of events of each user; the
driver concatenates the pieces as bytes. Nothing becomes a Python object. Limits: an executor holds
the counts of its range (4 bytes per user) and a batch, the driver the counts of one range; the
driver copies 4 bytes per event (1e9 events: 4 GB).
"""

from __future__ import annotations

import errno
import math
import posixpath
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Csr
from recsys_spark.etl.shards.npy import Npy, copied, full
from recsys_spark.etl.shards.writer import place

RANGE_EVENTS = 1_000_000  # approximate events per range
PIECE, _PLACE = "_piece", "_place"

_PIECES = pa.schema(
    [
        ("piece", pa.int32()),
        ("items", pa.string()),
        ("values", pa.string()),
        ("counts", pa.string()),
        ("entries", pa.int64()),
        ("error", pa.string()),
    ]
)
_PIECES_TYPE = "piece int, items string, values string, counts string, entries bigint, error string"


@dataclass(frozen=True)
class Side:
    """rows: (query_idx, item_idx) and the columns named by `by` and `values`. by: the column that
    orders a user's entries, with repeats kept; empty: sorted by item, without repeats. values: the
    column with a number for each entry (the first one of removed repeats); empty: none.
    """

    rows: DataFrame
    by: str = ""
    values: str = ""


def write(sides: Mapping[str, Side], folder: str, *, num_users: int, events: int) -> dict[str, Csr]:
    """Writes `<name>.indptr.npy`, `<name>.indices.npy` and, for a side with values,
    `<name>.values.npy` under `folder`.

    events: rows of all sides together, for the number of ranges. Raises ShardError when the folder
    is full.
    """
    names = tuple(sides)
    ranges = max(1, min(math.ceil(events / RANGE_EVENTS), num_users + 1))
    # Users per range; range 0 begins with the padding row 0
    width = math.ceil((num_users + 1) / ranges)
    numbered = [
        side.rows.select(
            (F.lit(number * ranges) + F.expr(f"{c.QUERY_IDX} div {width}"))
            .cast("int")
            .alias(PIECE),
            c.QUERY_IDX,
            (F.col(side.by).cast("long") if side.by else F.lit(0).cast("long")).alias(_PLACE),
            c.ITEM_IDX,
            (F.col(side.values) if side.values else F.lit(0.0)).cast("float").alias(c.VALUE),
        )
        for number, side in enumerate(sides.values())
    ]
    rows = reduce(DataFrame.unionByName, numbered)
    together = rows.repartitionById(len(names) * ranges, F.col(PIECE))
    ordered = together.sortWithinPartitions(PIECE, c.QUERY_IDX, _PLACE, c.ITEM_IDX, c.VALUE)
    kept = tuple(bool(side.by) for side in sides.values())
    pieces_of = ordered.select(PIECE, c.QUERY_IDX, c.ITEM_IDX, c.VALUE).mapInArrow(
        _task(folder, ranges, width, kept), _PIECES_TYPE
    )
    pieces = {piece["piece"]: piece for piece in pieces_of.toArrow().to_pylist()}
    for piece in pieces.values():
        if piece["error"]:
            raise full(folder, piece["error"])
    try:
        return {
            name: _joined(
                folder,
                name,
                [pieces.get(number * ranges + i) for i in range(ranges)],
                width,
                num_users + 1,
                sides[name],
            )
            for number, name in enumerate(names)
        }
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(folder, str(problem)) from problem


def write_pieces(
    batches: Iterable[pa.RecordBatch],
    folder: str,
    ranges: int,
    width: int,
    repeats: tuple[bool, ...],
) -> Iterator[pa.RecordBatch]:
    """One task: rows (piece, user, item, value) of whole pieces, in order -> raw files of each.
    repeats: for each side, whether repeated items are kept.
    """
    system, root = place(folder)
    current: _Piece | None = None
    try:
        for batch in batches:
            pieces, users, items, values = (
                batch.column(i).to_numpy(zero_copy_only=False) for i in range(4)
            )
            for piece in np.unique(pieces):
                if current is None or current.piece != piece:
                    if current is not None:
                        yield current.close()
                    first, keep = int(piece % ranges) * width, repeats[int(piece) // ranges]
                    current = _Piece(system, root, int(piece), first, width, keep)
                own = pieces == piece
                current.add(users[own], items[own], values[own])
        if current is not None:
            yield current.close()
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        yield pa.RecordBatch.from_pylist(
            [{"error": f"no space left: {problem}"[:200]}], schema=_PIECES
        )


class _Piece:
    """The piece with the items of the users first .. first + width - 1, while it is written."""

    def __init__(
        self,
        system: fs.FileSystem,
        root: str,
        piece: int,
        first: int,
        width: int,
        repeats: bool,
    ) -> None:
        self.system, self.piece, self.first, self.repeats = system, piece, first, repeats
        # The name is unique to this task attempt: a failed attempt leaves an unused piece.
        self.paths = {
            kind: posixpath.join(root, f".tmp-{kind}-{piece}-{uuid.uuid4().hex[:8]}")
            for kind in ("items", "values", "counts")
        }
        self.items = system.open_output_stream(self.paths["items"])
        self.values = system.open_output_stream(self.paths["values"])
        self.counts = np.zeros(width, dtype="<i4")
        self.last = (-1, -1)
        self.entries = 0

    def add(self, users: np.ndarray, items: np.ndarray, values: np.ndarray) -> None:
        if not self.repeats:
            new = np.empty(len(users), dtype=bool)
            new[0] = (users[0], items[0]) != self.last
            new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
            self.last = (users[-1], items[-1])
            users, items, values = users[new], items[new], values[new]
        self.counts += np.bincount(users - self.first, minlength=len(self.counts)).astype("<i4")
        self.items.write(items.astype("<i4").tobytes())
        self.values.write(values.astype("<f4").tobytes())
        self.entries += len(items)

    def close(self) -> pa.RecordBatch:
        self.items.close()
        self.values.close()
        with self.system.open_output_stream(self.paths["counts"]) as out:
            out.write(self.counts.tobytes())
        facts = {"piece": self.piece, **self.paths, "entries": self.entries}
        return pa.RecordBatch.from_pylist([facts], schema=_PIECES)


def _task(folder: str, ranges: int, width: int, repeats: tuple[bool, ...]) -> Any:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return write_pieces(batches, folder, ranges, width, repeats)

    return run


def _joined(
    folder: str,
    name: str,
    pieces: list[dict[str, Any] | None],
    width: int,
    rows: int,
    side: Side,
) -> Csr:
    """Concatenates pieces of a side in order and removes them; a missing piece has no events."""
    system, root = place(folder)
    entries = sum(piece["entries"] for piece in pieces if piece)
    paths = {kind: f"{name}.{kind}.npy" for kind in ("indptr", "indices", "values")}
    with Npy(system, posixpath.join(root, paths["indptr"]), "<i8", (rows + 1,)) as starts:
        at = 0
        starts.write(np.zeros(1, dtype="<i8").tobytes())
        for number, piece in enumerate(pieces):
            counts = np.zeros(width, dtype="<i4")
            if piece:
                with system.open_input_stream(piece["counts"]) as source:
                    counts = np.frombuffer(source.read(), dtype="<i4")
            # The last range may extend beyond the last user
            ends = at + np.cumsum(counts[: max(0, rows - number * width)], dtype="<i8")
            starts.write(ends.tobytes())
            at = int(ends[-1]) if len(ends) else at
    written = [piece for piece in pieces if piece]
    target = posixpath.join(root, paths["indices"])
    indices = copied(system, [piece["items"] for piece in written], target, "<i4", entries)
    values = ""
    if side.values:
        target = posixpath.join(root, paths["values"])
        values = copied(system, [piece["values"] for piece in written], target, "<f4", entries)
    for piece in written:
        for kind in ("items", "values", "counts"):
            system.delete_file(piece[kind])
    return Csr(
        indptr=paths["indptr"],
        indices=paths["indices"],
        rows=rows,
        entries=entries,
        indptr_digest=starts.digest,
        indices_digest=indices,
        ordered=bool(side.by),
        values=paths["values"] if values else "",
        values_digest=values,
    )

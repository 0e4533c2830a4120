"""Sparse matrices that Spark writes and tasks map into memory: CSR in three .npy files in a folder
shared by all hosts.

Executors write ranges of rows, the driver concatenates their bytes: nothing becomes a Python
object, and no process holds more than a batch and the row lengths of a range. The operating system
can reclaim mapped memory. Limits: the driver copies 8 bytes per entry; a process that needs the row
lengths holds 8 bytes per row.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c

ROW, COLUMN, ENTRY = "row", "column", "entry"
PIECE, TASK = "_piece", "_task"
COPY_BYTES = 1 << 24

_PIECES = pa.schema([("piece", pa.int32()), ("name", pa.string())])
_PIECES_TYPE = "piece int, name string"


class Rows(NamedTuple):
    """Entries of a matrix with num_rows + 1 rows: (row int, column int, entry float). Entries at
    the same position are summed.
    """

    entries: DataFrame
    num_rows: int


class Mapped(NamedTuple):
    """A CSR matrix as memory-mapped arrays."""

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]
    data: NDArray[np.float32] | NDArray[np.float64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.indptr)

    def rows(self, first: int, last: int) -> Mapped:
        """The rows first .. last - 1, without a copy."""
        start, stop = int(self.indptr[first]), int(self.indptr[last])
        return Mapped(
            self.indptr[first : last + 1] - start, self.indices[start:stop], self.data[start:stop]
        )

    def chunks(self, entries: int) -> Iterator[tuple[int, int]]:
        """Runs of rows (first, last + 1) with at most `entries` entries together, or of one row."""
        yield from runs(self.indptr, entries)


def mapped(files: Csr) -> Mapped:
    return Mapped(*(_map(path) for path in files))


def runs(total: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Runs of rows (first, last + 1) that cost at most `most` together, or of one row. total
    (rows + 1,): running sums of the costs.
    """
    first, rows = 0, len(total) - 1
    while first < rows:
        last = max(first + 1, int(np.searchsorted(total, total[first] + most, side="right")) - 1)
        yield first, min(last, rows)
        first = last


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder next to `folder`, on the same file system; removed at the end."""
    temporary = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def interactions(training: Training, folder: Path, *, values: bool) -> tuple[Csr, Csr]:
    """(users x items, items x users) from the events; an entry is 1, or with `values` the sum of
    the pair's values.
    """
    entry = F.col(c.VALUE) if values else F.lit(1.0)
    pairs = training.events.select(
        F.col(c.QUERY_IDX).alias(ROW),
        F.col(c.ITEM_IDX).alias(COLUMN),
        entry.cast("float").alias(ENTRY),
    )
    turned = pairs.select(F.col(COLUMN).alias(ROW), F.col(ROW).alias(COLUMN), ENTRY)
    matrices = write(
        {"users": Rows(pairs, training.num_users), "items": Rows(turned, training.num_items)},
        folder,
        binary=not values,
    )
    return matrices["users"], matrices["items"]


def write(sides: Mapping[str, Rows], folder: Path, *, binary: bool = False) -> dict[str, Csr]:
    """Writes each matrix as `<name>.<indptr|indices|data>.npy`.

    binary: repeated entries at the same position count once.
    """
    names = tuple(sides)
    tasks = next(iter(sides.values())).entries.sparkSession.sparkContext.defaultParallelism
    # Ranges per matrix: more than tasks, so that a range of long rows does not delay all others
    ranges = 8 * tasks
    widths = [-(-(rows.num_rows + 1) // ranges) for rows in sides.values()]
    numbered = [
        rows.entries.select(
            (F.lit(number * ranges) + F.expr(f"{ROW} div {width}")).cast("int").alias(PIECE),
            ROW,
            COLUMN,
            ENTRY,
        )
        for number, (rows, width) in enumerate(zip(sides.values(), widths, strict=True))
    ]
    together = reduce(DataFrame.unionByName, numbered).withColumn(
        TASK, F.expr(f"{PIECE} % {tasks}")
    )
    ordered = (
        together.repartitionById(tasks, F.col(TASK))
        .drop(TASK)
        .sortWithinPartitions(PIECE, ROW, COLUMN, ENTRY)
    )
    task = partial(_write_pieces, folder=folder, ranges=ranges, widths=widths, binary=binary)
    pieces = dict(
        zip(*ordered.mapInArrow(task, _PIECES_TYPE).toArrow().to_pydict().values(), strict=True)
    )
    return {
        name: _joined(
            folder,
            name,
            [pieces.get(number * ranges + i) for i in range(ranges)],
            widths[number],
            sides[name].num_rows + 1,
        )
        for number, name in enumerate(names)
    }


def _write_pieces(
    batches: Iterable[pa.RecordBatch], *, folder: Path, ranges: int, widths: list[int], binary: bool
) -> Iterator[pa.RecordBatch]:
    """One task: entries of complete pieces, sorted by (piece, row, column) -> three raw files per
    piece.
    """
    current: _Piece | None = None
    for batch in batches:
        pieces, *entries = (batch.column(i).to_numpy(zero_copy_only=False) for i in range(4))
        for piece in np.unique(pieces):
            if current is None or current.piece != piece:
                if current is not None:
                    yield current.close()
                number, place = divmod(int(piece), ranges)
                current = _Piece(folder, int(piece), place * widths[number], widths[number], binary)
            in_piece = pieces == piece
            current.add(*(values[in_piece] for values in entries))
    if current is not None:
        yield current.close()


class _Piece:
    """The piece with the rows first .. first + width - 1, while it is written."""

    def __init__(self, folder: Path, piece: int, first: int, width: int, binary: bool) -> None:
        self.piece, self.first, self.binary = piece, first, binary
        # The name is unique to this task attempt: a failed attempt leaves an unused piece.
        self.base = folder / f"piece-{piece}-{uuid.uuid4().hex[:8]}"
        self.counts = np.zeros(width, dtype=np.int64)
        nothing = np.zeros(0, dtype=np.int32)
        # The last position so far: the next batch may continue at it
        self.held = (
            nothing,
            nothing,
            nothing.astype(np.float32),
        )

    def add(
        self, rows: NDArray[np.int32], columns: NDArray[np.int32], values: NDArray[np.float32]
    ) -> None:
        rows, columns, values = (
            np.concatenate(pair) for pair in zip(self.held, (rows, columns, values), strict=True)
        )
        new = np.flatnonzero(
            np.concatenate([[True], (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])])
        )
        values = (
            np.ones(len(new), dtype=np.float32) if self.binary else np.add.reduceat(values, new)
        )
        rows, columns = rows[new], columns[new]
        self._put(rows[:-1], columns[:-1], values[:-1])
        self.held = (rows[-1:], columns[-1:], values[-1:])

    def _put(
        self, rows: NDArray[np.int32], columns: NDArray[np.int32], values: NDArray[np.float32]
    ) -> None:
        self.counts += np.bincount(rows - self.first, minlength=len(self.counts))
        for kind, numbers in (("indices", columns.astype("<i4")), ("data", values.astype("<f4"))):
            with open(f"{self.base}.{kind}", "ab") as out:
                out.write(numbers.tobytes())

    def close(self) -> pa.RecordBatch:
        self._put(*self.held)
        self.counts.astype("<i8").tofile(f"{self.base}.counts")
        return pa.RecordBatch.from_pydict(
            {"piece": [self.piece], "name": [str(self.base)]}, schema=_PIECES
        )


def _joined(folder: Path, name: str, pieces: list[str | None], width: int, rows: int) -> Csr:
    """Concatenates the pieces of one matrix, in order of their rows, and removes them. A missing
    piece has no entries.
    """
    files = Csr(*(folder / f"{name}.{part}.npy" for part in Csr._fields))
    counts = np.zeros((len(pieces), width), dtype=np.int64)
    for number, piece in enumerate(pieces):
        if piece:
            counts[number] = np.fromfile(f"{piece}.counts", dtype="<i8")
    indptr = np.concatenate([[0], np.cumsum(counts.reshape(-1)[:rows])])
    np.save(files.indptr, indptr)
    for path, kind, dtype in ((files.indices, "indices", "<i4"), (files.data, "data", "<f4")):
        with npy(path, dtype, int(indptr[-1])) as out:
            for piece in filter(None, pieces):
                with open(f"{piece}.{kind}", "rb") as source:
                    shutil.copyfileobj(source, out, COPY_BYTES)
    for piece in filter(None, pieces):
        for kind in ("indices", "data", "counts"):
            Path(f"{piece}.{kind}").unlink()
    return files


@contextmanager
def npy(path: Path, dtype: str, *shape: int) -> Iterator[BinaryIO]:
    """An .npy file of this type and shape, open for its numbers to be written as a stream (random
    writes are slow on shared storage).
    """
    with open(path, "wb") as out:
        np.lib.format.write_array_header_1_0(
            out, {"descr": dtype, "fortran_order": False, "shape": shape}
        )
        yield out


def _map(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:
        return np.load(path)  # an empty array cannot be mapped

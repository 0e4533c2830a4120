"""Side files: for every user the sorted items of some events, as CSR in two .npy files that readers map into memory.

Executors write the items of one range of users each, as raw int32, and the events of each user in it; the driver strings the pieces
together as bytes. Nothing becomes a Python object. Limits: an executor holds the counts of its range (4 bytes a user) and a
batch, the driver the counts of one range; one driver copies 4 bytes an event (1e9 events: 4 GB).
"""

from __future__ import annotations

import errno
import hashlib
import math
import posixpath
import uuid
from collections.abc import Mapping
from functools import reduce
from typing import Any, Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Csr
from recsys_spark.core.errors import ShardError
from recsys_spark.core.shardset import NPY_HEADER_BYTES
from recsys_spark.etl.shard_writer import place

RANGE_EVENTS = 1_000_000  # about so many events a range
COPY_BYTES = 1 << 24
PIECE = "_piece"

_PIECES = pa.schema([("piece", pa.int32()), ("items", pa.string()), ("counts", pa.string()), ("entries", pa.int64()),
                     ("error", pa.string())])
_PIECES_TYPE = "piece int, items string, counts string, entries bigint, error string"


def write(sides: Mapping[str, DataFrame], folder: str, *, num_users: int, events: int) -> dict[str, Csr]:
    """{name: (user_idx, item_idx) rows, repeats allowed} -> `<name>.indptr.npy`, `<name>.indices.npy` under `folder`.

    events: rows of all sides together, for the number of ranges. Raises ShardError when the folder is full.
    """
    names = tuple(sides)
    ranges = max(1, min(math.ceil(events / RANGE_EVENTS), num_users + 1))
    width = math.ceil((num_users + 1) / ranges)  # users of a range; range 0 begins with the padding row 0
    numbered = reduce(DataFrame.unionByName, (
        rows.select((F.lit(number * ranges) + F.expr(f"{c.USER_IDX} div {width}")).cast("int").alias(PIECE), c.USER_IDX, c.ITEM_IDX)
        for number, rows in enumerate(sides.values())))
    together = numbered.repartitionById(len(names) * ranges, F.col(PIECE))
    ordered = together.sortWithinPartitions(PIECE, c.USER_IDX, c.ITEM_IDX)
    found = ordered.mapInArrow(_task(folder, ranges, width), _PIECES_TYPE).toArrow().to_pylist()
    for piece in found:
        if piece["error"]:
            raise _full(folder, piece["error"])
    pieces = {piece["piece"]: piece for piece in found}
    try:
        return {name: _joined(folder, name, [pieces.get(number * ranges + i) for i in range(ranges)], width, num_users + 1)
                for number, name in enumerate(names)}
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(folder, str(problem)) from problem


def write_pieces(batches: Iterable[pa.RecordBatch], folder: str, ranges: int, width: int) -> Iterator[pa.RecordBatch]:
    """One task: rows of whole pieces, sorted by (piece, user, item) -> two raw files a piece. Repeats are left out."""
    system, root = place(folder)
    current: _Piece | None = None
    try:
        for batch in batches:
            pieces, users, items = (batch.column(i).to_numpy(zero_copy_only=False) for i in range(3))
            for piece in np.unique(pieces):
                if current is None or current.piece != piece:
                    if current is not None:
                        yield current.close()
                    current = _Piece(system, root, int(piece), int(piece % ranges) * width, width)
                mine = pieces == piece
                current.add(users[mine], items[mine])
        if current is not None:
            yield current.close()
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        yield pa.RecordBatch.from_pylist([{"error": f"no space left: {problem}"[:200]}], schema=_PIECES)


class _Piece:
    """The items of the users first .. first + width - 1, in the making."""

    def __init__(self, system: fs.FileSystem, root: str, piece: int, first: int, width: int) -> None:
        self.system, self.piece, self.first = system, piece, first
        # Of this attempt's own name: an attempt that loses leaves a piece that nobody asks for.
        self.items, self.counts_path = (posixpath.join(root, f".tmp-{kind}-{piece}-{uuid.uuid4().hex[:8]}") for kind in ("items", "counts"))
        self.sink = system.open_output_stream(self.items)
        self.counts = np.zeros(width, dtype="<i4")
        self.last = (-1, -1)
        self.entries = 0

    def add(self, users: np.ndarray, items: np.ndarray) -> None:
        new = np.empty(len(users), dtype=bool)
        new[0] = (users[0], items[0]) != self.last
        new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        self.last = (users[-1], items[-1])
        users, items = users[new], items[new]
        self.counts += np.bincount(users - self.first, minlength=len(self.counts)).astype("<i4")
        self.sink.write(items.astype("<i4").tobytes())
        self.entries += len(items)

    def close(self) -> pa.RecordBatch:
        self.sink.close()
        with self.system.open_output_stream(self.counts_path) as out:
            out.write(self.counts.tobytes())
        return pa.RecordBatch.from_pylist([{"piece": self.piece, "items": self.items, "counts": self.counts_path, "entries": self.entries}],
                                          schema=_PIECES)


def _task(folder: str, ranges: int, width: int) -> Any:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return write_pieces(batches, folder, ranges, width)

    return run


def _joined(folder: str, name: str, pieces: list[dict[str, Any] | None], width: int, rows: int) -> Csr:
    """String the pieces of one side together, in order of their users, and remove them. A missing piece had no events."""
    system, root = place(folder)
    entries = sum(piece["entries"] for piece in pieces if piece)
    indptr, indices = f"{name}.indptr.npy", f"{name}.indices.npy"
    with _Npy(system, posixpath.join(root, indptr), "<i8", rows + 1) as starts, \
            _Npy(system, posixpath.join(root, indices), "<i4", entries) as items:
        at = 0
        starts.write(np.zeros(1, dtype="<i8").tobytes())
        for number, piece in enumerate(pieces):
            counts = np.zeros(width, dtype="<i4")
            if piece:
                with system.open_input_stream(piece["counts"]) as source:
                    counts = np.frombuffer(source.read(), dtype="<i4")
                with system.open_input_stream(piece["items"]) as source:
                    while data := source.read(COPY_BYTES):
                        items.write(data)
            ends = at + np.cumsum(counts[:max(0, rows - number * width)], dtype="<i8")  # the last range may reach beyond the last user
            starts.write(ends.tobytes())
            at = int(ends[-1]) if len(ends) else at
    for piece in filter(None, pieces):
        for key in ("items", "counts"):
            system.delete_file(piece[key])
    return Csr(indptr=indptr, indices=indices, rows=rows, entries=entries, indptr_digest=starts.digest, indices_digest=items.digest)


class _Npy:
    """A one-dimensional .npy file written as a stream, with its SHA-256. Takes its name when it is whole."""

    def __init__(self, system: fs.FileSystem, path: str, dtype: str, length: int) -> None:
        self.system, self.path = system, path
        self.beside = posixpath.join(posixpath.dirname(path), f".tmp-{posixpath.basename(path)}-{uuid.uuid4().hex[:8]}")
        self.sha = hashlib.sha256()
        text = repr({"descr": dtype, "fortran_order": False, "shape": (length,)}).encode()
        self.header = b"\x93NUMPY\x01\x00" + (NPY_HEADER_BYTES - 10).to_bytes(2, "little") + text.ljust(NPY_HEADER_BYTES - 11) + b"\n"
        self.expected = length * np.dtype(dtype).itemsize

    def __enter__(self) -> _Npy:
        self.sink = self.system.open_output_stream(self.beside)
        self.write(self.header)
        self.written = 0
        return self

    def write(self, data: bytes) -> None:
        self.sink.write(data)
        self.sha.update(data)
        self.written = getattr(self, "written", 0) + len(data)

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.sink.close()
        if kind is None:
            assert self.written == self.expected, f"{self.path}: {self.written} bytes of {self.expected}"
            self.system.move(self.beside, self.path)
        else:
            self.system.delete_file(self.beside)

    @property
    def digest(self) -> str:
        return self.sha.hexdigest()


def _full(folder: str, found: str) -> ShardError:
    return ShardError(f"shard folder {folder}", found=found, expected="room for the side files",
                      remedy="free space there, or set env.runs to another place, then run export_shards again")

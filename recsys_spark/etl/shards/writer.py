"""Writes one Parquet file per virtual shard from a stream of sorted Arrow batches, inside a Spark
task.

Holds at most a row group and a batch. A file is written under a name unique to the task attempt and
renamed when complete, so a killed, retried or speculative task does no harm: equal rows make equal
bytes. Files are uncompressed, the label has a dictionary, and there are no statistics. Measured
with pyarrow on 4 M rows (user, item, label), row groups of 16,384 or 4,096 rows, one thread:
152 / 61 M rows/s at 8.4 bytes a row; plain 153 / 63 at 12.0; lz4 137 / 47 at 7.0; zstd 51 / 19 at
4.8; everything with a dictionary 97 / 37 at 8.0.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import uuid
from dataclasses import dataclass
from typing import Any, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys_spark.core.columns import EVENT
from recsys_spark.core.contracts import Column

PART, SHARD = "_part", "_shard"  # columns with a row's part and virtual shard

# One row per finished file. If the target is full, only `error` is set: a retry would not help.
FACTS = pa.schema(
    [
        ("part", pa.int32()),
        ("virtual_shard", pa.int32()),
        ("row_groups", pa.list_(pa.int64())),
        ("bytes", pa.int64()),
        ("digest", pa.string()),
        ("labels", pa.int64()),
        ("label_sum", pa.float64()),
        ("label_min", pa.float64()),
        ("label_max", pa.float64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Target:
    """Where and how to write: the picklable settings of a task."""

    folder: str  # a path or a URL, the same on every machine
    parts: tuple[str, ...]  # names by part number
    columns: tuple[Column, ...]
    label: str  # label column; empty: the layout has none
    row_group_rows: int

    def schema(self) -> pa.Schema:
        """Columns are not nullable, so Parquet stores no definition levels for plain columns."""
        return pa.schema(
            [pa.field(column.name, _arrow_type(column), nullable=False) for column in self.columns]
        )


def place(folder: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URL, and the path inside it."""
    if "://" in folder:
        system, path = fs.FileSystem.from_uri(folder)
        return system, path
    return fs.LocalFileSystem(), folder


def file_name(part: str, shard: int) -> str:
    return f"{part}/v{shard:02d}.parquet"


def write(batches: Iterable[pa.RecordBatch], target: Target) -> Iterator[pa.RecordBatch]:
    """Writes `batches`, sorted by (part, shard) with every shard complete. Yields the FACTS of each
    file.
    """
    system, _ = place(target.folder)
    current: _File | None = None
    try:
        for batch in batches:
            for part, shard, rows in _pieces(batch):
                if current is None or (current.part, current.shard) != (part, shard):
                    if current is not None:
                        yield current.close()
                    current = _File(system, target, part, shard)
                    current.open()
                current.add(rows)
        if current is not None:
            yield current.close()
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        yield _facts(error=f"no space left: {problem}"[:200])
    finally:
        if current is not None:
            current.abandon()


def _pieces(batch: pa.RecordBatch) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """The batch cut where (part, shard) changes."""
    if not batch.num_rows:
        return
    parts, shards = (batch.column(name).to_numpy(zero_copy_only=False) for name in (PART, SHARD))
    cuts = np.flatnonzero((parts[1:] != parts[:-1]) | (shards[1:] != shards[:-1])) + 1
    for start, end in zip([0, *cuts], [*cuts, batch.num_rows], strict=True):
        yield int(parts[start]), int(shards[start]), batch.slice(start, end - start)


class _Hashing:
    """A file that tracks the size and SHA-256 of its content while it is written."""

    def __init__(self, sink: Any) -> None:
        self.sink, self.sha, self.bytes = sink, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        data = memoryview(data)
        self.sha.update(data)
        self.sink.write(data)
        self.bytes += data.nbytes
        return data.nbytes

    def flush(self) -> None:
        self.sink.flush()

    def close(self) -> None:
        self.sink.close()

    @property
    def closed(self) -> bool:
        return bool(self.sink.closed)


class _File:
    """The file of one virtual shard, while it is written."""

    def __init__(self, system: fs.FileSystem, target: Target, part: int, shard: int) -> None:
        self.system, self.target, self.part, self.shard = system, target, part, shard
        _, folder = place(target.folder)
        self.path = posixpath.join(folder, file_name(target.parts[part], shard))
        self.beside = posixpath.join(
            posixpath.dirname(self.path),
            f".tmp-{posixpath.basename(self.path)}-{uuid.uuid4().hex[:8]}",
        )
        self.done = False
        self.schema = target.schema()
        self.waiting: list[pa.RecordBatch] = []
        self.waiting_rows = 0
        self.groups: list[int] = []
        self.labels, self.sum, self.min, self.max = 0, 0.0, float("inf"), float("-inf")

    def open(self) -> None:
        self.system.create_dir(posixpath.dirname(self.path), recursive=True)
        self.sink = _Hashing(self.system.open_output_stream(self.beside))
        self.writer = pq.ParquetWriter(
            pa.PythonFile(self.sink, mode="w"),
            self.schema,
            compression="none",
            use_dictionary=[
                _leaf(column) for column in self.target.columns if self._repeats(column)
            ],
            write_statistics=False,
            store_schema=False,
        )

    def _repeats(self, column: Column) -> bool:
        """Whether a column has few different values (labels, codes of fields), so that a dictionary
        is smaller and not slower.
        """
        return column.name == self.target.label or (
            column.name.startswith(EVENT) and column.dtype == "int32"
        )

    def add(self, rows: pa.RecordBatch) -> None:
        self.waiting.append(rows.select(self.schema.names))
        self.waiting_rows += rows.num_rows
        while self.waiting_rows >= self.target.row_group_rows:
            self._write_group(self.target.row_group_rows)

    def close(self) -> pa.RecordBatch:
        if self.waiting_rows:
            self._write_group(self.waiting_rows)
        self.writer.close()
        self.sink.close()
        self.system.move(self.beside, self.path)
        self.done = True
        return _facts(
            part=self.part,
            virtual_shard=self.shard,
            row_groups=self.groups,
            bytes=self.sink.bytes,
            digest=self.sink.sha.hexdigest(),
            labels=self.labels,
            label_sum=self.sum,
            label_min=self.min,
            label_max=self.max,
        )

    def abandon(self) -> None:
        """Removes an unfinished file."""
        if self.done:
            return
        for half_open in ("writer", "sink"):
            # Closing fails again on a full disk, or the file was never opened
            with contextlib.suppress(OSError, AttributeError):
                getattr(self, half_open).close()
        if self.system.get_file_info(self.beside).type != fs.FileType.NotFound:
            self.system.delete_file(self.beside)

    def _write_group(self, size: int) -> None:
        rows = pa.Table.from_batches(self.waiting)
        group, rest = rows.slice(0, size).combine_chunks().cast(self.schema), rows.slice(size)
        self.writer.write_table(group, row_group_size=size)
        self.groups.append(size)
        if self.target.label:
            self._count(group.column(self.target.label))
        self.waiting, self.waiting_rows = rest.to_batches(), rest.num_rows

    def _count(self, labels: pa.ChunkedArray) -> None:
        values = (
            (pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels)
            .to_numpy()
            .astype(np.float64)
        )
        if len(values):
            self.labels += len(values)
            self.sum += float(values.sum())
            self.min, self.max = (
                min(self.min, float(values.min())),
                max(self.max, float(values.max())),
            )


def _facts(**values: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([values], schema=FACTS)


def _arrow_type(column: Column) -> pa.DataType:
    kind = pa.type_for_alias(column.dtype)
    if not column.shape:
        return kind
    entry = pa.field("element", kind, nullable=False)
    return pa.list_(entry) if column.shape == (-1,) else pa.list_(entry, column.shape[0])


def _leaf(column: Column) -> str:
    """The path of a column in the Parquet schema."""
    return f"{column.name}.list.element" if column.shape else column.name

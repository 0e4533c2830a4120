"""Row groups in a given order through pyarrow alone, read ahead by one thread, or by several from
an object store, where latency is high but requests run in parallel.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from recsys_spark.core.errors import ShardError
from recsys_spark.core.shardset import REMEDY
from recsys_spark.train.data.places import unreadable

Read = tuple[str, int]  # (path of a Parquet file, row group)
OPEN_FILES = 128  # maximum number of open files


def read(
    reads: Sequence[Read], columns: Sequence[str], *, prefetch: int, store: FileSystem | None = None
) -> Iterator[pa.Table]:
    """One table for each of `reads`, in order, with at most `prefetch` tables waiting. Closing the
    iterator stops the threads.
    """
    readers = [Files(columns, store) for _ in range(1 if store is None else prefetch)]
    idle: SimpleQueue[Files] = SimpleQueue()
    for files in readers:
        idle.put(files)

    def load(path: str, group: int) -> pa.Table:
        files = idle.get()
        try:
            return files.read(path, group)
        finally:
            idle.put(files)

    pool = ThreadPoolExecutor(len(readers), thread_name_prefix="shards")
    waiting: deque[Future[pa.Table]] = deque()
    try:
        for place in reads:
            waiting.append(pool.submit(load, *place))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for files in readers:
            files.close()


class Files:
    """Parquet files, kept open between their row groups. For use by one thread."""

    def __init__(self, columns: Sequence[str], store: FileSystem | None = None) -> None:
        self._columns, self._store = list(columns), store
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def read(self, path: str, group: int) -> pa.Table:
        """The columns of one row group. Raises ShardError, naming file and row group, when the data
        cannot be decoded.
        """
        try:
            table = self._file(path).read_row_group(group, self._columns, use_threads=False)
        except (pa.ArrowException, OSError, IndexError) as problem:
            raise unreadable(f"shard file {path}, row group {group}", problem) from None
        missing = set(self._columns) - set(table.column_names)
        if missing:
            raise ShardError(
                f"shard file {path}, row group {group}",
                found=f"columns {', '.join(table.column_names)}",
                expected=f"also {', '.join(sorted(missing))}, as the manifest says",
                remedy=REMEDY,
            )
        return table

    def footer(self, path: str) -> pq.FileMetaData:
        """The footer of a file. Raises ShardError, naming the file, when it has none."""
        try:
            return self._file(path).metadata
        except (pa.ArrowException, OSError) as problem:
            raise unreadable(f"shard file {path}", problem) from None

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, path: str) -> pq.ParquetFile:
        file = self._open.get(path)
        if file is None:  # pre_buffer: one request per row group to an object store
            file = pq.ParquetFile(
                path,
                filesystem=self._store,
                pre_buffer=self._store is not None,
                page_checksum_verification=True,
            )
        self._open[path] = file
        self._open.move_to_end(path)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

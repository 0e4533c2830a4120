"""Row groups in a given order through pyarrow alone, read ahead by one thread."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.core.errors import ShardError
from recsys_spark.core.shardset import REMEDY

Read = tuple[str, int]  # (path of a Parquet file, row group)
OPEN_FILES = 128  # kept open at once


def read(reads: Sequence[Read], columns: Sequence[str], *, prefetch: int) -> Iterator[pa.Table]:
    """One table a read, in the order of `reads`, at most `prefetch` of them waiting. Closing the iterator stops the thread."""
    files = Files(columns)
    pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
    waiting: deque[Future[pa.Table]] = deque()
    try:
        for place in reads:
            waiting.append(pool.submit(files.read, *place))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        files.close()


class Files:
    """Parquet files, kept open between their row groups. For use by one thread."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def read(self, path: str, group: int) -> pa.Table:
        """The columns of one row group. Raises ShardError, naming file and row group, when the data cannot be decoded."""
        try:
            table = self._file(path).read_row_group(group, self._columns, use_threads=False)
        except (pa.ArrowException, OSError, IndexError) as problem:
            raise unreadable(f"shard file {path}, row group {group}", problem) from None
        missing = set(self._columns) - set(table.column_names)
        if missing:
            raise ShardError(f"shard file {path}, row group {group}", found=f"columns {', '.join(table.column_names)}",
                             expected=f"also {', '.join(sorted(missing))}, as the manifest says", remedy=REMEDY)
        return table

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, path: str) -> pq.ParquetFile:
        file = self._open.get(path) or pq.ParquetFile(path, page_checksum_verification=True)
        self._open[path] = file
        self._open.move_to_end(path)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file


def unreadable(where: str, problem: Exception) -> ShardError:
    return ShardError(where, found=" ".join(str(problem).split())[:160], expected="Parquet data", remedy=REMEDY)

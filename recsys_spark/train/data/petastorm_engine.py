"""Row groups in a given order through petastorm's reader: its thread pool, its bounded queue, its
shutdown.

petastorm shuffles and distributes row groups by its own rules (`index % shard_count`), drops the
remainder, rejects ragged lists and converts tables to batches slowly. So this engine gives it the
final order and takes its raw tables.
"""

from __future__ import annotations

from queue import Full
from typing import Any, Iterator, Sequence

import pyarrow as pa
from pyarrow.fs import FileSystem

from recsys_spark.core.errors import ShardError
from recsys_spark.core.shardset import REMEDY
from recsys_spark.train.data import petastorm_shim
from recsys_spark.train.data.arrow_engine import Files, Read

_reader = petastorm_shim.load()

from petastorm.arrow_reader_worker import ArrowReaderWorker  # noqa: E402  (after the shim)
from petastorm.workers_pool import EmptyResultError  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool, WorkerTerminationRequested  # noqa: E402


def read(
    reads: Sequence[Read], columns: Sequence[str], *, prefetch: int, store: FileSystem | None = None
) -> Iterator[pa.Table]:
    """One table for each of `reads`, in order, with at most `prefetch` tables waiting. Closing the
    iterator stops the threads.
    """
    if not reads:
        return
    files = Files(columns, store)
    reader = _Reader(reads, files, prefetch)
    try:
        for _ in reads:
            yield next(reader)
    finally:
        reader.stop()
        reader.join()
        files.close()


class _Tables:
    """Returns the published tables unchanged."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _Worker(ArrowReaderWorker):
    """Reads a row group."""

    @staticmethod
    def new_results_queue_reader() -> _Tables:
        return _Tables()

    def process(
        self, piece_index: int, worker_predicate: Any, shuffle_row_drop_partition: Any
    ) -> None:
        piece = self._split_pieces[piece_index]
        try:
            self.publish_func(self._filesystem.read(piece.path, piece.row_group))
        except ShardError as error:
            # The pool raises it in the consumer; raised here, it would also print a traceback
            self.publish_func(error)


class _Pool(ThreadPool):
    """One thread, so that tables come in the order of the requests, and two changes for trainings
    of many epochs.
    """

    def __init__(self, prefetch: int) -> None:
        # The queue holds two entries for each row group: a table and its completion.
        super().__init__(workers_count=1, results_queue_size=2 * prefetch)

    def _stop_aware_put(self, data: Any) -> None:
        """Waits for room in the queue as petastorm does, but polls 20 times per second instead of
        1000 (which costs 2.5 % of a core).
        """
        while not self._stop_event.is_set():
            try:
                return self._results_queue.put(data, timeout=0.05)
            except Full:
                continue
        raise WorkerTerminationRequested

    def join(self) -> None:
        super().join()
        # The workers refer to the pool: without the cycle, a finished epoch is freed at once.
        self._workers.clear()


class _Reader(_reader.Reader):  # type: ignore[name-defined]
    def __init__(self, reads: Sequence[Read], files: Files, prefetch: int) -> None:
        self._reads = reads
        paths = sorted({path for path, _ in reads})
        super().__init__(
            files,
            paths,
            shuffle_row_groups=False,
            reader_pool=_Pool(prefetch),
            num_epochs=1,
            worker_class=_Worker,
            is_batched_reader=True,
        )

    def _filter_row_groups(
        self, dataset: Any, row_groups: Sequence[Any], *_: Any
    ) -> tuple[list[int], None]:
        index = {(piece.path, piece.row_group): number for number, piece in enumerate(row_groups)}
        for path, group in self._reads:
            if (path, group) not in index:
                raise ShardError(
                    f"shard file {path}, row group {group}",
                    found="no such row group",
                    expected="one, as the manifest says",
                    remedy=REMEDY,
                )
        return [index[read] for read in self._reads], None

    def _create_ventilator(self, indexes: list[int], *rest: Any) -> Any:
        # All requests are queued at once: they are small, and petastorm's ventilator sleeps 10 ms
        # whenever its own queue is full, which limits small row groups to 5 M rows/s. The queue of
        # results bounds the memory.
        *arguments, _, seed = rest
        return super()._create_ventilator(indexes, *arguments, len(indexes), seed)

"""Batches of a shard set, in the order of train/data/order.py, as numpy arrays.

An engine (petastorm, or pyarrow alone) reads row groups in the order in which steps need them;
engine `memory` reads them once and keeps them decoded. Each window is permuted as it is read. A
*round* of many steps is assembled with one gather per column, in a background thread, while the
batches of the previous round are in use: batches are slices of it. Memory of an engine that reads,
with W rows of the open windows (at most window_row_groups row groups of each virtual shard of this
rank; about half of them on average), and b bytes per row:

    b * (W + prefetch row groups + one window) + 5 * max(ROUND_BYTES, one batch)
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event
from typing import Any, Generator, Iterator

import numpy as np
import pyarrow as pa

from recsys_spark.core import columns as names
from recsys_spark.core import contracts, shardset
from recsys_spark.core.errors import ConfigError, ShardError, nearest
from recsys_spark.train.data import arrow_engine, memory_engine, places
from recsys_spark.train.data.blocks import Block, converted, empty, from_arrow, join, take
from recsys_spark.train.data.order import Order, Window, interleave
from recsys_spark.train.data.rounds import ROW, Batch, Round, Stream

ROUND_BYTES = 8 << 20
ROUND_STEPS = 4096

DEFAULTS = contracts.Reader()


def resolve(engine: str) -> str:
    """`auto` is petastorm where it is installed, else arrow."""
    if engine != "auto":
        return engine
    return "petastorm" if find_spec("petastorm") is not None else "arrow"


class Reader:
    """Rank `rank` of `num_ranks` over one part of the shard set in `shards_folder`.

    The constructor makes all checks; they have the same result on all ranks, so that all of them
    stop before the first collective.
    `columns` None: those of the manifest. A weight that the shards lack is left out: a batch reads
        it as 1.
    Raises ShardError for the folder, its manifest or its files, an unknown part or column, or too
        many ranks.
    """

    def __init__(
        self,
        shards_folder: str | os.PathLike[str],
        part: str,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        settings: contracts.Reader = DEFAULTS,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self._place = places.Place(shards_folder)
        self.folder = self._place.shown
        self.shards = places.load(shards_folder, place=self._place)
        if part not in self.shards.parts:
            raise ShardError(
                f"shard set {self.folder}, part {part!r}",
                found="no such part",
                expected=f"one of {', '.join(self.shards.parts)}{nearest(part, self.shards.parts)}",
                remedy=shardset.REMEDY,
            )
        self.part, self._settings = self.shards.parts[part], settings
        chosen, table = self._chosen(columns), self.shards.table
        self._rows = places.Place(table.location) if table else self._place
        self._stored = (
            {name: name for name in chosen}
            if table is None
            else {name: table.columns[name] for name in chosen if name in table.columns}
        )
        self.columns = {name: chosen[name] for name in self._stored}
        self._ones = {
            name: column.dtype for name, column in chosen.items() if name not in self._stored
        }
        dealt = self.part.dealt(self.shards.virtual_shards)
        groups = [
            tuple(file.row_groups[number] for file, number in shard_groups)
            for shard_groups in dealt
        ]
        self._check_ranks(part, groups, num_ranks)
        self._reads = [
            [(self._rows.path(file.path), number) for file, number in shard_groups]
            for shard_groups in dealt
        ]
        in_lanes = self.shards.order == "lanes" and part == names.TRAIN
        if in_lanes:
            self._check_lanes(groups, batch_size)
        self.order = Order(
            groups,
            batch_size,
            seed,
            settings.window_row_groups,
            rank,
            num_ranks,
            shuffled=not in_lanes,
        )
        self._memory: memory_engine.Memory | None = None
        if settings.engine == "memory":
            memory_engine.check(
                f"shard set {self.folder}, part {part}",
                self._rows,
                self.part.files,
                self.columns,
                num_ranks,
                settings.memory_bytes,
            )
            self._memory = memory_engine.Memory(
                groups, self.order.filled[self.order.owned].tolist()
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch; the same on every rank."""
        return self.order.steps

    @property
    def rows(self) -> int:
        """Rows of an epoch, over all ranks."""
        return self.order.rows

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """One batch for each step from `start_step` on: this rank's rows of it, possibly none.

        {column: array (B, *shape) or Ragged, "row": int64 (B,), "count_global": rows of the step
        over all ranks}. The caller may keep the arrays. Closing the iterator stops its threads.
        Raises ShardError, naming file and row group.
        """
        stop = Event()
        rounds = self._rounds(epoch, start_step, stop)
        with ThreadPoolExecutor(1, thread_name_prefix="rounds") as pool:
            try:
                upcoming = pool.submit(next, rounds, None)
                while (current := upcoming.result()) is not None:
                    upcoming = pool.submit(next, rounds, None)
                    yield from current.batches()
            finally:
                stop.set()  # the current round ends at its next window
                pool.submit(rounds.close).result()

    def _rounds(self, epoch: int, start_step: int, stop: Event) -> Generator[Round, None, None]:
        order, owned = self.order, self.order.owned
        windows = deque(order.windows(epoch, start_step))
        streams = {int(shard): Stream() for shard in order.filled[owned]}
        tables: Generator[pa.Table, None, None] | None = None
        if self._memory is not None and not self._memory.fill(self._tables, self._decoded, stop):
            return
        if self._memory is None:
            tables = self._tables(
                [(window.shard, group) for window in windows for group in window.groups]
            )
        try:
            for first in range(start_step, order.steps, self._round_steps()):
                last = min(first + self._round_steps(), order.steps)
                bounds = order.bounds(first, last)  # (T + 1, M)
                sizes = np.diff(bounds.sum(axis=1))  # (T,)
                while windows and windows[0].step < last:
                    if stop.is_set():
                        return
                    window = windows.popleft()
                    streams[window.shard].add(
                        window.start,
                        window.rows,
                        self._load(window, self.order.permutation(epoch, window), tables),
                    )
                yield self._assemble(streams, bounds[:, owned], sizes)
        finally:
            if tables is not None:
                tables.close()

    def _load(
        self, window: Window, permutation: np.ndarray, tables: Iterator[pa.Table] | None
    ) -> dict[str, Block]:
        """The rows of a window in the order of the epoch."""
        if tables is None:
            assert self._memory is not None
            return self._memory.window(window, permutation)
        read = [self._decoded(window.shard, group, next(tables)) for group in window.groups]
        return {
            name: take(join([blocks[name] for blocks in read]), permutation)
            for name in self.columns
        }

    def _decoded(self, shard: int, group: int, table: pa.Table) -> dict[str, Block]:
        """The columns of a row group. Raises ShardError where they contradict the manifest."""
        (path, number), expected = self._reads[shard][group], self.order.groups[shard][group]
        where = f"shard file {path}, row group {number}"
        if len(table) != expected:
            raise ShardError(
                where,
                found=f"{len(table)} rows",
                expected=f"{expected}, as the manifest says",
                remedy=shardset.REMEDY,
            )
        arrays = {name: table.column(self._stored[name]) for name in self.columns}
        if self.shards.table is not None:
            arrays = {
                name: converted(arrays[name], column, where)
                for name, column in self.columns.items()
            }
        return {
            name: from_arrow(arrays[name], column, where) for name, column in self.columns.items()
        }

    def _assemble(
        self, streams: dict[int, Stream], bounds: np.ndarray, sizes: np.ndarray
    ) -> Round:
        """Assemble T steps; bounds (T + 1, m) are those of the m streams."""
        source, row, starts = interleave(np.array(list(streams), dtype=np.int64), bounds)
        pieces = [
            piece
            for stream, low, high in zip(streams.values(), bounds[0], bounds[-1], strict=True)
            for piece in stream.rows(int(low), int(high))
        ]
        blocks = {
            name: take(join([empty(column), *(piece[name] for piece in pieces)]), source)
            for name, column in self.columns.items()
        }
        blocks |= {name: np.ones(len(row), dtype=dtype) for name, dtype in self._ones.items()}
        return Round({**blocks, ROW: row}, starts, sizes)

    def _round_steps(self) -> int:
        row_bytes_stored = max(1, sum(file.bytes for file in self.part.files) // max(self.rows, 1))
        row_bytes_decoded = 8 + sum(
            np.dtype(column.dtype).itemsize * int(np.prod(column.shape or 1))
            for column in self.columns.values()
        )
        rows = ROUND_BYTES // max(row_bytes_stored, row_bytes_decoded)
        return min(ROUND_STEPS, max(1, rows * self.order.num_ranks // self.order.batch_size))

    def _tables(self, groups: list[tuple[int, int]]) -> Generator[pa.Table, None, None]:
        """The tables of (virtual shard, row group), in this order, read ahead."""
        read: Any = arrow_engine.read
        if resolve(self._settings.engine) == "petastorm":
            from recsys_spark.train.data import petastorm_engine  # takes a second to import

            read = petastorm_engine.read
        reads = [self._reads[shard][group] for shard, group in groups]
        tables: Generator[pa.Table, None, None] = read(
            reads,
            list(self._stored.values()),
            prefetch=self._settings.prefetch,
            store=self._rows.store,
        )
        return tables

    def _chosen(self, columns: tuple[str, ...] | None) -> dict[str, contracts.Column]:
        available = {column.name: column for column in self.shards.columns}
        for name in columns or ():
            if name not in available:
                raise ShardError(
                    f"shard set {self.folder}, column {name!r}",
                    found=f"columns {', '.join(available)}",
                    expected=f"a column of that name{nearest(name, available)}",
                    remedy=f"{shardset.REMEDY} with that column",
                )
        return {
            name: column for name, column in available.items() if columns is None or name in columns
        }

    def _check_lanes(self, groups: list[tuple[int, ...]], batch_size: int) -> None:
        """Check that every step takes one row of each lane."""
        lanes = self.shards.num_lanes
        if batch_size != lanes:
            raise ConfigError(
                "train.batch_size",
                found=batch_size,
                expected=f"{lanes}, a row of each lane of the shard set {self.folder}",
                remedy=f"set train.batch_size={lanes}, or export with another number of lanes",
            )
        rows = {sum(counts) for counts in groups}
        if len(rows) != 1 or lanes % len(groups) or rows.pop() % (lanes // len(groups)):
            raise ShardError(
                f"shard set {self.folder}, lanes",
                found=f"virtual shards of {sorted({sum(counts) for counts in groups})} rows",
                expected=f"equal ones, each with {lanes} / {len(groups)} rows a step",
                remedy=shardset.REMEDY,
            )

    def _check_ranks(self, part: str, groups: list[tuple[int, ...]], num_ranks: int) -> None:
        where = f"shard set {self.folder}, part {part}"
        if self.shards.virtual_shards % num_ranks:
            raise ShardError(
                where,
                found=f"{self.shards.virtual_shards} virtual shards for {num_ranks} workers",
                expected="a number of workers that divides them",
                remedy="change workers.num_workers",
            )
        if not any(map(sum, groups)):
            raise ShardError(
                where,
                found="no rows",
                expected="at least one",
                remedy="check the split, then " + shardset.REMEDY,
            )
        for rank in range(num_ranks):
            if not any(map(sum, groups[rank::num_ranks])):
                total = sum(map(len, groups))
                raise ShardError(
                    where,
                    found=f"{total} row groups, none of them for worker {rank} of {num_ranks}",
                    expected="at least one row group for each worker",
                    remedy="lower workers.num_workers, or export with smaller row groups",
                )

"""Batches of a shard set, in the order of train/order.py, as numpy arrays.

An engine (petastorm, or pyarrow alone) reads row groups in the order in which steps need them; engine `memory` reads them once and
keeps them decoded. Each window is permuted as it comes; a *round* of many steps is then put together with one gather a column, in a
background thread, while the batches of the round before are being used: batches are slices of it. Memory of an
engine that reads, with W rows of the windows under way (at most window_row_groups row groups of each virtual shard of this rank; about
half of them on average), and b bytes a row:

    b * (W + prefetch row groups + one window) + 5 * max(ROUND_BYTES, one batch)
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any, Generator, Iterator

import numpy as np
import pyarrow as pa

from recsys_spark.core import columns as names
from recsys_spark.core import contracts, shardset
from recsys_spark.core.errors import ShardError, nearest
from recsys_spark.train import arrow_engine, memory_engine, places
from recsys_spark.train.blocks import Block, converted, cut, empty, from_arrow, join, take
from recsys_spark.train.order import Order, Window, interleave

ROW, COUNT_GLOBAL = "row", "count_global"
ROUND_BYTES = 8 << 20
ROUND_STEPS = 4096

Batch = dict[str, Any]


@dataclass
class _Round:
    """Consecutive steps, put together."""

    blocks: dict[str, Block]  # R rows
    starts: np.ndarray  # (T + 1,) rows of each step
    sizes: np.ndarray  # (T,) the same over all ranks

    def batches(self) -> Iterator[Batch]:
        starts = self.starts.tolist()
        for low, high, size in zip(starts[:-1], starts[1:], self.sizes.tolist(), strict=True):
            yield {**{name: cut(block, low, high) for name, block in self.blocks.items()}, COUNT_GLOBAL: size}


class _Stream:
    """The rows of one virtual shard that have been read and not yet used."""

    def __init__(self) -> None:
        self._windows: deque[tuple[int, int, dict[str, Block]]] = deque()  # first position, last + 1, blocks

    def add(self, start: int, rows: int, blocks: dict[str, Block]) -> None:
        self._windows.append((start, start + rows, blocks))

    def rows(self, low: int, high: int) -> list[dict[str, Block]]:
        """Positions low .. high - 1, as pieces one after the other; rows before `high` are let go."""
        pieces = []
        for start, end, blocks in self._windows:
            first, last = max(low, start) - start, min(high, end) - start
            if first < last:
                pieces.append({name: cut(block, first, last) for name, block in blocks.items()})
        while self._windows and self._windows[0][1] <= high:
            self._windows.popleft()
        return pieces


class Reader:
    """Rank `rank` of `num_ranks` over one part of the shard set in `shards_folder`.

    Every check is made here and is the same on all ranks, so that all of them stop before the first collective.
    `columns` None: those of the manifest. A pointwise batch always has `weight`: ones where the shards have none.
    Raises ShardError: the folder, its manifest or its files, an unknown part or column, too many ranks.
    """

    def __init__(self, shards_folder: str | os.PathLike[str], part: str, *, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1,
                 settings: contracts.Reader = contracts.Reader(), columns: tuple[str, ...] | None = None) -> None:  # noqa: B008 (frozen)
        self._place = places.Place(shards_folder)
        self.folder = self._place.shown
        self.shards = places.load(shards_folder, place=self._place)
        if part not in self.shards.parts:
            raise ShardError(f"shard set {self.folder}, part {part!r}", found="no such part",
                             expected=f"one of {', '.join(self.shards.parts)}{nearest(part, self.shards.parts)}", remedy=shardset.REMEDY)
        self.part, self._settings = self.shards.parts[part], settings
        chosen, table = self._chosen(columns), self.shards.table
        self._rows = places.Place(table.location) if table else self._place
        self._stored = {name: name for name in chosen} if table is None else {name: table.columns[name] for name in chosen
                                                                              if name in table.columns}
        self.columns = {name: chosen[name] for name in self._stored}
        self._ones = {name: column.dtype for name, column in chosen.items() if name not in self._stored}
        if self.shards.layout == "pointwise" and names.WEIGHT not in chosen and (columns is None or names.WEIGHT in columns):
            self._ones[names.WEIGHT] = "float32"
        dealt = self.part.dealt(self.shards.virtual_shards)
        groups = [tuple(file.row_groups[number] for file, number in of_shard) for of_shard in dealt]
        self._check_ranks(part, groups, num_ranks)
        self._reads = [[(self._rows.path(file.path), number) for file, number in of_shard] for of_shard in dealt]
        self.order = Order(groups, batch_size, seed, settings.window_row_groups, rank, num_ranks)
        self._memory: memory_engine.Memory | None = None
        if settings.engine == "memory":
            memory_engine.check(f"shard set {self.folder}, part {part}", self._rows, self.part.files, self.columns, num_ranks,
                                settings.memory_bytes)
            self._memory = memory_engine.Memory(groups, self.order.filled[self.order.owned].tolist())

    @property
    def steps(self) -> int:
        """Of an epoch; the same on every rank."""
        return self.order.steps

    @property
    def rows(self) -> int:
        """Of an epoch, over all ranks."""
        return self.order.rows

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """One batch for each step from `start_step` on: this rank's rows of it, maybe none.

        {column: array (B, *shape) or Ragged, "row": int64 (B,), "count_global": rows of the step over all ranks}. The arrays
        are the caller's to keep. Closing the iterator stops its threads. Raises ShardError, naming file and row group.
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
                stop.set()  # the round under way ends at its next window
                pool.submit(rounds.close).result()

    def _rounds(self, epoch: int, start_step: int, stop: Event) -> Generator[_Round, None, None]:
        order, owned = self.order, self.order.owned
        windows = deque(order.windows(epoch, start_step))
        held = {int(shard): _Stream() for shard in order.filled[owned]}
        tables: Generator[pa.Table, None, None] | None = None
        if self._memory is not None and not self._memory.fill(self._tables, self._decoded, stop):
            return
        if self._memory is None:
            tables = self._tables([(window.shard, group) for window in windows for group in window.groups])
        try:
            for first in range(start_step, order.steps, self._round_steps()):
                last = min(first + self._round_steps(), order.steps)
                bounds = order.bounds(first, last)  # (T + 1, M)
                sizes = np.diff(bounds.sum(axis=1))  # (T,)
                while windows and windows[0].step < last:
                    if stop.is_set():
                        return
                    window = windows.popleft()
                    held[window.shard].add(window.start, window.rows, self._load(window, self.order.permutation(epoch, window), tables))
                yield self._assemble(held, bounds[:, owned], sizes)
        finally:
            if tables is not None:
                tables.close()

    def _load(self, window: Window, permutation: np.ndarray, tables: Iterator[pa.Table] | None) -> dict[str, Block]:
        """The rows of a window in the order of the epoch."""
        if tables is None:
            assert self._memory is not None
            return self._memory.window(window, permutation)
        read = [self._decoded(window.shard, group, next(tables)) for group in window.groups]
        return {name: take(join([blocks[name] for blocks in read]), permutation) for name in self.columns}

    def _decoded(self, shard: int, group: int, table: pa.Table) -> dict[str, Block]:
        """The columns of a row group. Raises ShardError where they are not what the manifest says."""
        (path, number), expected = self._reads[shard][group], self.order.groups[shard][group]
        where = f"shard file {path}, row group {number}"
        if len(table) != expected:
            raise ShardError(where, found=f"{len(table)} rows", expected=f"{expected}, as the manifest says", remedy=shardset.REMEDY)
        found = {name: table.column(self._stored[name]) for name in self.columns}
        if self.shards.table is not None:
            found = {name: converted(found[name], column, where) for name, column in self.columns.items()}
        return {name: from_arrow(found[name], column, where) for name, column in self.columns.items()}

    def _assemble(self, held: dict[int, _Stream], bounds: np.ndarray, sizes: np.ndarray) -> _Round:
        """bounds (T + 1, m) of the shards held -> T steps."""
        source, row, starts = interleave(np.array(list(held), dtype=np.int64), bounds)
        pieces = [piece for stream, low, high in zip(held.values(), bounds[0], bounds[-1], strict=True)
                  for piece in stream.rows(int(low), int(high))]
        made = {name: take(join([empty(column), *(piece[name] for piece in pieces)]), source) for name, column in self.columns.items()}
        made |= {name: np.ones(len(row), dtype=dtype) for name, dtype in self._ones.items()}
        return _Round({**made, ROW: row}, starts, sizes)

    def _round_steps(self) -> int:
        of_files = max(1, sum(file.bytes for file in self.part.files) // max(self.rows, 1))
        in_memory = 8 + sum(np.dtype(column.dtype).itemsize * int(np.prod(column.shape or 1)) for column in self.columns.values())
        rows = ROUND_BYTES // max(of_files, in_memory)
        return min(ROUND_STEPS, max(1, rows * self.order.num_ranks // self.order.batch_size))

    def _tables(self, groups: list[tuple[int, int]]) -> Generator[pa.Table, None, None]:
        """Of (virtual shard, row group), in this order, read ahead."""
        read: Any = arrow_engine.read
        if self._settings.engine == "petastorm":
            from recsys_spark.train import petastorm_engine  # takes a second to import
            read = petastorm_engine.read
        reads = [self._reads[shard][group] for shard, group in groups]
        made: Generator[pa.Table, None, None] = read(reads, list(self._stored.values()), prefetch=self._settings.prefetch,
                                                     store=self._rows.store)
        return made

    def _chosen(self, wanted: tuple[str, ...] | None) -> dict[str, contracts.Column]:
        there = {column.name: column for column in self.shards.columns}
        for name in wanted or ():
            if name not in there and (name != names.WEIGHT or self.shards.layout != "pointwise"):
                raise ShardError(f"shard set {self.folder}, column {name!r}", found=f"columns {', '.join(there)}",
                                 expected=f"a column of that name{nearest(name, there)}", remedy=f"{shardset.REMEDY} with that column")
        return {name: column for name, column in there.items() if wanted is None or name in wanted}

    def _check_ranks(self, part: str, groups: list[tuple[int, ...]], num_ranks: int) -> None:
        where = f"shard set {self.folder}, part {part}"
        if self.shards.virtual_shards % num_ranks:
            raise ShardError(where, found=f"{self.shards.virtual_shards} virtual shards for {num_ranks} workers",
                             expected="a number of workers that divides them", remedy="change workers.num_workers")
        if not any(map(sum, groups)):
            raise ShardError(where, found="no rows", expected="at least one", remedy="check the split, then " + shardset.REMEDY)
        for rank in range(num_ranks):
            if not any(map(sum, groups[rank::num_ranks])):
                total = sum(map(len, groups))
                raise ShardError(where, found=f"{total} row groups, none of them for worker {rank} of {num_ranks}",
                                 expected="at least one row group for each worker",
                                 remedy="lower workers.num_workers, or export with smaller row groups")

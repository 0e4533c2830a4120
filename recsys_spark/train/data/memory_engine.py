"""Engine for a part of a shard set that fits into memory: this rank's rows are read once, kept
decoded, and gathered window by window.
"""

from __future__ import annotations

from threading import Event, Lock
from typing import Callable, Generator, Mapping, Sequence

import numpy as np
import psutil
import pyarrow as pa

from recsys_spark.core.contracts import Column, ShardFile
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data.blocks import Block, join, take
from recsys_spark.train.data.order import Window
from recsys_spark.train.data.places import Place

# (virtual shard, row group, its table) -> columns
Decode = Callable[[int, int, pa.Table], dict[str, Block]]


class Memory:
    """Columns of the virtual shards that a rank owns, filled at the first use. Several epochs may
    read it at once.
    """

    def __init__(self, groups: Sequence[Sequence[int]], owned: Sequence[int]) -> None:
        self.owned = owned
        self._starts = {shard: np.concatenate([[0], np.cumsum(groups[shard])]) for shard in owned}
        self._shards: dict[int, dict[str, Block]] = {}
        self._lock = Lock()

    def fill(
        self,
        tables: Callable[[list[tuple[int, int]]], Generator[pa.Table, None, None]],
        decode: Decode,
        stop: Event,
    ) -> bool:
        """Read all row groups, if that is not done yet. `tables` reads (virtual shard, row group)
        pairs. Returns False when stopped before the end.
        """
        with self._lock:
            if len(self._shards) == len(self.owned):
                return True
            self._shards.clear()
            groups = {shard: range(len(self._starts[shard]) - 1) for shard in self.owned}
            source = tables([(shard, group) for shard in self.owned for group in groups[shard]])
            try:
                for shard in self.owned:
                    decoded: list[dict[str, Block]] = []
                    for group in groups[shard]:
                        if stop.is_set():
                            return False
                        decoded.append(decode(shard, group, next(source)))
                    self._shards[shard] = {
                        name: join([blocks[name] for blocks in decoded]) for name in decoded[0]
                    }
            finally:
                source.close()
        return True

    def window(self, window: Window, permutation: np.ndarray) -> dict[str, Block]:
        """The rows of a window, permuted; copies."""
        starts = self._starts[window.shard]
        rows = np.concatenate(
            [np.arange(starts[group], starts[group + 1]) for group in window.groups]
        )
        rows = np.take(rows, permutation, mode="clip")
        return {name: take(block, rows) for name, block in self._shards[window.shard].items()}


def check(
    where: str,
    place: Place,
    files: Sequence[ShardFile],
    columns: Mapping[str, Column],
    num_ranks: int,
    budget: int,
) -> None:
    """Raises ShardError, on all ranks alike, when the rank with most rows would hold more than
    `budget` bytes.

    budget 0: half of this host's memory, divided by the ranks as if they all ran on it.
    """
    allowed = budget or psutil.virtual_memory().total // 2 // num_ranks
    sizes = [0] * num_ranks
    for file in files:
        for shard, size in zip(file.dealt, _bytes(place, file, columns), strict=True):
            sizes[shard % num_ranks] += size
    if max(sizes) > allowed:
        raise ShardError(
            f"{where}, decoded for worker {sizes.index(max(sizes))} of {num_ranks}",
            found=f"{max(sizes):,} bytes",
            expected=f"at most {allowed:,} bytes, "
            f"{'train.reader.memory_bytes' if budget else 'half of the memory of this host'}"
            f"{' shared by the workers' if not budget and num_ranks > 1 else ''}",
            remedy="raise train.reader.memory_bytes where "
            "there is room, or set train.reader.engine=auto",
        )


def _bytes(place: Place, file: ShardFile, columns: Mapping[str, Column]) -> list[int]:
    """Decoded bytes of the columns of each row group: from the manifest, except for lists, whose
    entries the Parquet footer counts.
    """
    fixed = sum(
        np.dtype(column.dtype).itemsize * int(np.prod(column.shape))
        for column in columns.values()
        if column.shape != (-1,)
    )
    lists = {name: column for name, column in columns.items() if column.shape == (-1,)}
    sizes = [rows * (fixed + 8 * len(lists)) for rows in file.row_groups]
    if not lists:
        return sizes
    footer = place.footer(file.path)
    for group in range(len(sizes)):
        for number in range(footer.num_columns):
            chunk = footer.row_group(group).column(number)
            if (column := lists.get(chunk.path_in_schema.split(".")[0])) is not None:
                sizes[group] += chunk.num_values * np.dtype(column.dtype).itemsize
    return sizes

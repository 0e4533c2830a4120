"""What a reader holds between its engine and the batches: the rows read ahead of each virtual shard,
and the steps assembled from them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Iterator

import numpy as np

from recsys_spark.train.data.blocks import Block, cut

ROW, COUNT_GLOBAL = "row", "count_global"  # of a batch, beside the columns

Batch = dict[str, Any]


@dataclass
class Round:
    """Consecutive steps, assembled."""

    blocks: dict[str, Block]  # R rows
    starts: np.ndarray  # (T + 1,) rows of each step
    sizes: np.ndarray  # (T,) the same over all ranks

    def batches(self) -> Iterator[Batch]:
        starts = self.starts.tolist()
        for low, high, size in zip(starts[:-1], starts[1:], self.sizes.tolist(), strict=True):
            yield {
                **{name: cut(block, low, high) for name, block in self.blocks.items()},
                COUNT_GLOBAL: size,
            }


class Stream:
    """The rows of one virtual shard that are read but not yet used."""

    def __init__(self) -> None:
        # (first position, last position + 1, blocks)
        self._windows: deque[tuple[int, int, dict[str, Block]]] = deque()

    def add(self, start: int, rows: int, blocks: dict[str, Block]) -> None:
        self._windows.append((start, start + rows, blocks))

    def rows(self, low: int, high: int) -> list[dict[str, Block]]:
        """Rows at positions low .. high - 1, as consecutive pieces. Windows that end at or before
        `high` are dropped.
        """
        pieces = []
        for start, end, blocks in self._windows:
            first, last = max(low, start) - start, min(high, end) - start
            if first < last:
                pieces.append({name: cut(block, first, last) for name, block in blocks.items()})
        while self._windows and self._windows[0][1] <= high:
            self._windows.popleft()
        return pieces

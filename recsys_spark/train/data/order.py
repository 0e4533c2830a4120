"""The order of rows in an epoch: a pure function of (seed, epoch) and of the shards, the same on
any number of ranks and for any engine.

Let n_v be the rows of virtual shard v, M the number of shards that are not empty, k_v the place of
v among them in bit-reversed order, and S = ceil(rows / batch_size). Row p of v's stream belongs to
step floor(S (p + (2 k_v + 1) / (2 M)) / n_v), in exact integers. So every row is read once per
epoch, every rank has S steps by construction, and the position in an epoch is one number, the step,
from which any number of ranks can resume. A step of all ranks together has rows / S rows, plus or
minus one where the n_v are equal, and plus or minus a few (about log2 M) where they differ by one;
the offsets (2 k_v + 1) / (2 M) ensure this. The deviation is never as large as M.

The stream of v in an epoch: its row groups in an order drawn by (seed, epoch, v); windows of
consecutive groups; the rows of each window permuted. Shards that need several windows start with a
shorter one, each with another length, so that windows do not all end at the same step. Rank r of N
owns the shards v with v % N == r and puts a step's rows in order of (v, p).

Of a set in order `lanes` nothing is permuted. Where every shard has c rows for each of S steps and
batch_size = V c, step s takes exactly rows s c, ..., s c + c - 1 of every shard: one of each lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Sequence

import numpy as np

from recsys_spark.core import seeds

ROW_BITS = 32  # row number of a batch's row: v * 2**32 + p


class Window(NamedTuple):
    """Consecutive row groups of one virtual shard's stream, whose rows are permuted together."""

    step: int  # the first step, from `start_step` on, that takes a row of it
    shard: int  # virtual shard
    number: int  # 0, 1, ... within the shard
    start: int  # position of its first row in the shard's stream
    rows: int
    groups: tuple[int, ...]  # row groups, in the order to read


@dataclass(frozen=True)
class Order:
    """groups[v] are the row counts of the row groups of virtual shard v; () where it is empty."""

    groups: Sequence[Sequence[int]]
    batch_size: int  # rows of a step over all ranks
    seed: int
    window: int = 8  # row groups
    rank: int = 0
    num_ranks: int = 1
    shuffled: bool = True  # False: rows stay in the order of their shard (lanes)

    @cached_property
    def rows(self) -> int:
        return sum(map(sum, self.groups))

    @cached_property
    def steps(self) -> int:
        return -(-self.rows // self.batch_size)

    @cached_property
    def filled(self) -> np.ndarray:
        """int64 (M,): the virtual shards that hold rows."""
        return np.array([v for v, groups in enumerate(self.groups) if sum(groups)], dtype=np.int64)

    @cached_property
    def owned(self) -> np.ndarray:
        """bool (M,): which of `filled` this rank reads."""
        return self.filled % self.num_ranks == self.rank

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([sum(self.groups[v]) for v in self.filled], dtype=np.int64)  # n_v, (M,)

    @cached_property
    def _places(self) -> np.ndarray:
        """k_v, (M,). Bit-reversed, so that neighbouring shards, which have similar sizes, are far
        apart.
        """
        bits = max(1, len(self.filled) - 1).bit_length()
        mirrored = [int(f"{k:0{bits}b}"[::-1], 2) for k in range(len(self.filled))]
        return np.argsort(np.argsort(mirrored)).astype(np.int64)

    def bounds(self, first: int, last: int) -> np.ndarray:
        """int64 (last - first + 1, M): the first position of each shard's stream that belongs to
        steps first, ..., last or later.
        """
        # Row p belongs to step floor((p + (k + 1/2) / M) * S / n), so step s begins at the smallest
        # p with p + (k + 1/2) / M >= s n / S. With s n = whole * S + rest that is `whole`, or the
        # next row where rest / S > (k + 1/2) / M; both sides times 2 M S are integers.
        shards, steps = len(self.filled), max(self.steps, 1)  # M, S
        whole, rest = np.divmod(
            np.arange(first, last + 1, dtype=np.int64)[:, None] * self._sizes, steps
        )
        left, right = 2 * shards * rest, steps * (2 * self._places + 1)
        return whole + (left > right)

    def step_of(self, shard: int, position: int) -> int:
        """The step that row `position` of a virtual shard's stream belongs to.

        >>> order = Order(groups=((3,), (3,)), batch_size=2, seed=1)  # M = 2, n_v = 3, S = 3
        >>> [order.step_of(0, p) for p in range(3)]  # floor(3 (p + 1 / 4) / 3)
        [0, 1, 2]
        >>> [order.step_of(1, p) for p in range(3)]  # floor(3 (p + 3 / 4) / 3)
        [0, 1, 2]
        >>> order.bounds(0, 3).tolist()  # each step takes a row of each shard
        [[0, 0], [1, 1], [2, 2], [3, 3]]
        """
        index = int(np.searchsorted(self.filled, shard))
        shards = len(self.filled)
        return (
            self.steps
            * (2 * shards * position + 2 * int(self._places[index]) + 1)
            // (2 * shards * int(self._sizes[index]))
        )

    def windows(self, epoch: int, start_step: int = 0) -> list[Window]:
        """The windows of this rank with a row of `start_step` or later, in the order in which steps
        need them.
        """
        windows: list[Window] = []
        lows = self.bounds(start_step, start_step)[0]
        for index in np.flatnonzero(self.owned):
            shard, low = int(self.filled[index]), int(lows[index])
            counts = self.groups[shard]
            order = self._groups(epoch, shard, len(counts))
            start = 0
            for number, (begin, end) in enumerate(self._cuts(int(index), len(counts))):
                groups = tuple(order[begin:end])
                rows = sum(counts[group] for group in groups)
                if start + rows > low:
                    windows.append(
                        Window(
                            self.step_of(shard, max(start, low)), shard, number, start, rows, groups
                        )
                    )
                start += rows
        return sorted(windows)

    def _groups(self, epoch: int, shard: int, count: int) -> list[int]:
        if not self.shuffled:
            return list(range(count))
        rng = np.random.default_rng(seeds.derive(self.seed, "groups", epoch, shard))
        return rng.permutation(count).tolist()

    def _cuts(self, index: int, groups: int) -> list[tuple[int, int]]:
        first = groups if groups <= self.window else 1 + index * self.window // len(self.filled)
        edges = [0, *range(first, groups, self.window), groups]
        return list(zip(edges[:-1], edges[1:], strict=True))

    def permutation(self, epoch: int, window: Window) -> np.ndarray:
        """int64 (rows,): the row of the window, in read order, at each of its positions."""
        if not self.shuffled:
            return np.arange(window.rows)
        return np.random.default_rng(
            seeds.derive(self.seed, "rows", epoch, window.shard, window.number)
        ).permutation(window.rows)


class Interleaved(NamedTuple):
    """Indices that reorder rows from shard by shard to step by step."""

    # int64 (R,): position of the row among the rows of all shards, one shard after the other
    source: np.ndarray
    row: np.ndarray  # int64 (R,): v * 2**32 + p
    starts: np.ndarray  # int64 (T + 1,): the rows of step t are starts[t] : starts[t + 1]


def interleave(shards: np.ndarray, bounds: np.ndarray) -> Interleaved:
    """shards (m,) virtual shards, bounds (T + 1, m) of T steps -> the R rows between bounds[0] and
    bounds[-1] by (step, v, p).
    """
    counts = np.diff(bounds, axis=0)  # (T, m)
    # (m,): where each shard's rows begin
    shard_starts = np.cumsum(bounds[-1] - bounds[0]) - (bounds[-1] - bounds[0])
    flat = counts.ravel()
    target = np.cumsum(flat) - flat  # (T * m,): where each piece goes
    position = np.arange(flat.sum(), dtype=np.int64)
    source = np.repeat((shard_starts + bounds[:-1] - bounds[0]).ravel() - target, flat)
    source += position
    row = np.repeat(((shards << ROW_BITS) + bounds[:-1]).ravel() - target, flat)
    row += position
    return Interleaved(source, row, np.concatenate([[0], np.cumsum(counts.sum(axis=1))]))

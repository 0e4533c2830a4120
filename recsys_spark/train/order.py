"""Which row comes when: a pure function of (seed, epoch) and of the shards, the same on any number of ranks and for any engine.

Let n_v be the rows of virtual shard v, M the number of shards that are not empty, k_v the place of v among them in bit-reversed
order, and S = ceil(rows / batch_size). Row p of v's stream belongs to step floor(S (p + (2 k_v + 1) / (2 M)) / n_v), in exact
integers. So every row is read once an epoch, every rank has S steps by construction, and the position in an epoch is one
number, the step, that any number of ranks can take up. A step of all ranks together has rows / S rows, give or take one where
the n_v are equal and a few (about log2 M) where they differ by one; the offsets (2 k_v + 1) / (2 M) see to that. In no case is it off by M.

The stream of v in an epoch: its row groups in an order drawn by (seed, epoch, v); windows of consecutive groups; the
rows of each window permuted. Shards that need several windows start with a shorter one, each with another length, so that
windows do not all end at the same step. Rank r of N owns the shards v with v % N == r and puts a step's rows in order of (v, p).
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

    step: int  # the first step, from the start asked for, that takes a row of it
    shard: int  # virtual shard
    number: int  # 0, 1, ... within the shard
    start: int  # position in the shard's stream of its first row
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
        """k_v, (M,). Bit-reversed, so that neighbours, whose sizes are alike, lie far apart."""
        bits = max(1, len(self.filled) - 1).bit_length()
        mirrored = [int(f"{k:0{bits}b}"[::-1], 2) for k in range(len(self.filled))]
        return np.argsort(np.argsort(mirrored)).astype(np.int64)

    def bounds(self, first: int, last: int) -> np.ndarray:
        """int64 (last - first + 1, M): the first position of each shard's stream that belongs to steps first, ..., last or later."""
        # The smallest p with S (2 M p + 2 k + 1) >= 2 M s n; s n = whole * S + rest keeps the numbers small.
        shards, steps = len(self.filled), max(self.steps, 1)
        whole, rest = np.divmod(np.arange(first, last + 1, dtype=np.int64)[:, None] * self._sizes, steps)
        return whole + (2 * shards * rest > steps * (2 * self._places + 1))

    def step_of(self, shard: int, position: int) -> int:
        """The step that row `position` of a virtual shard's stream belongs to."""
        place = int(np.searchsorted(self.filled, shard))
        shards = len(self.filled)
        return self.steps * (2 * shards * position + 2 * int(self._places[place]) + 1) // (2 * shards * int(self._sizes[place]))

    def windows(self, epoch: int, start_step: int = 0) -> list[Window]:
        """The windows of this rank with a row of `start_step` or later, in the order in which steps need them."""
        found: list[Window] = []
        lows = self.bounds(start_step, start_step)[0]
        for place in np.flatnonzero(self.owned):
            shard, low = int(self.filled[place]), int(lows[place])
            counts = self.groups[shard]
            order = np.random.default_rng(seeds.derive(self.seed, "groups", epoch, shard)).permutation(len(counts)).tolist()
            start = 0
            for number, (begin, end) in enumerate(self._cuts(int(place), len(counts))):
                groups = tuple(order[begin:end])
                rows = sum(counts[group] for group in groups)
                if start + rows > low:
                    found.append(Window(self.step_of(shard, max(start, low)), shard, number, start, rows, groups))
                start += rows
        return sorted(found)

    def _cuts(self, place: int, groups: int) -> list[tuple[int, int]]:
        first = groups if groups <= self.window else 1 + place * self.window // len(self.filled)
        edges = [0, *range(first, groups, self.window), groups]
        return list(zip(edges[:-1], edges[1:], strict=True))

    def permutation(self, epoch: int, window: Window) -> np.ndarray:
        """int64 (rows,): which row of the window, as read, comes at each of its positions."""
        return np.random.default_rng(seeds.derive(self.seed, "rows", epoch, window.shard, window.number)).permutation(window.rows)


class Interleaved(NamedTuple):
    """How rows that lie shard by shard are put step by step."""

    source: np.ndarray  # int64 (R,): where the row lies among the rows of all shards, one shard after the other
    row: np.ndarray  # int64 (R,): v * 2**32 + p
    starts: np.ndarray  # int64 (T + 1,): the rows of step t are starts[t] : starts[t + 1]


def interleave(shards: np.ndarray, bounds: np.ndarray) -> Interleaved:
    """shards (m,) virtual shards, bounds (T + 1, m) of T steps -> the R rows between bounds[0] and bounds[-1] by (step, v, p)."""
    counts = np.diff(bounds, axis=0)  # (T, m)
    before = np.cumsum(bounds[-1] - bounds[0]) - (bounds[-1] - bounds[0])  # (m,) where each shard's rows begin
    flat = counts.ravel()
    to = np.cumsum(flat) - flat  # (T * m,) where each piece goes
    place = np.arange(flat.sum(), dtype=np.int64)
    source = np.repeat((before + bounds[:-1] - bounds[0]).ravel() - to, flat)
    source += place
    row = np.repeat(((shards << ROW_BITS) + bounds[:-1]).ravel() - to, flat)
    row += place
    return Interleaved(source, row, np.concatenate([[0], np.cumsum(counts.sum(axis=1))]))

"""The vectors of one side (users or items) as .npy blocks on shared storage, and a reader of single
rows for tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from recsys_spark.core import artifacts

# Up to this size a task holds all vectors of a side; above it, it maps the blocks and reads rows
WHOLE_BYTES = 256 << 20
GRAM = "gram.npy"
_PHILOX = 4  # numbers per step of the counter


@dataclass(frozen=True)
class Factors:
    """Block b has the vectors of the rows bounds[b] .. bounds[b + 1] - 1, float32 (rows, dim); row
    0 is zero.
    """

    folder: str
    bounds: tuple[int, ...]
    dim: int

    def path(self, number: int) -> Path:
        return Path(self.folder, f"{number:05d}.npy")

    def gram_path(self, number: int) -> Path:
        """The block's share of the Gram matrix, float64 (dim, dim)."""
        return Path(self.folder, f"{number:05d}.gram.npy")

    def block(self, number: int) -> NDArray[np.float32]:
        return np.load(self.path(number), mmap_mode="r", allow_pickle=False)

    def whole(self) -> NDArray[np.float32]:
        """All rows, (R + 1, dim), in memory."""
        return np.concatenate([self.block(number) for number in range(len(self.bounds) - 1)])

    def reader(self) -> Callable[[NDArray[np.int32]], NDArray[np.float32]]:
        """take(rows (n,)) -> their vectors (n, dim)."""
        if self.bounds[-1] * self.dim * 4 <= WHOLE_BYTES:
            held = self.whole()
            return lambda rows: held.take(rows, axis=0)
        blocks = [self.block(number) for number in range(len(self.bounds) - 1)]
        bounds = np.array(self.bounds)

        def take(rows: NDArray[np.int32]) -> NDArray[np.float32]:
            taken = np.empty((len(rows), self.dim), dtype=np.float32)
            block = np.searchsorted(bounds, rows, side="right") - 1
            order = np.argsort(block, kind="stable")
            ends = np.searchsorted(block[order], np.arange(len(blocks) + 1))
            for number in np.flatnonzero(np.diff(ends)):
                some = order[ends[number] : ends[number + 1]]
                taken[some] = blocks[number][rows[some] - bounds[number]]
            return taken

        return take

    def add_grams(self) -> None:
        """Adds the blocks' Gram matrices in order, and writes the sum as one file: `gram`."""
        total = np.zeros((self.dim, self.dim))
        for number in range(len(self.bounds) - 1):
            total += np.load(self.gram_path(number), allow_pickle=False)
        save(Path(self.folder, GRAM), total)

    def gram(self) -> NDArray[np.float64]:
        """Sum of v v' over all rows, (dim, dim)."""
        return np.load(Path(self.folder, GRAM), allow_pickle=False)


def save(path: Path, array: NDArray) -> None:
    """Writes an .npy file, complete or absent: a killed or repeated attempt does no harm."""
    with artifacts.new_file(path) as beside, open(beside, "wb") as out:
        np.save(out, array)


def normal(first: int, rows: int, dim: int, *, seed: int, scale: float) -> NDArray[np.float32]:
    """Normal vectors (rows, dim) of the rows first .. first + rows - 1. A row's vector depends on
    its number and the seed, not on its block.
    """
    steps = -(-dim // _PHILOX)  # steps of the counter per row
    bits = np.random.Philox(key=seed).advance(first * steps).random_raw(rows * steps * _PHILOX)
    uniform = (np.asarray(bits, dtype=np.uint64) >> np.uint64(11)).astype(
        np.float64
    ) * 2.0**-53 + 2.0**-54  # inside (0, 1)
    return (scale * ndtri(uniform)).reshape(rows, -1)[:, :dim].astype(np.float32)

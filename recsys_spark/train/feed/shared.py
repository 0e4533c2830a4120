"""Negative items that a whole step shares: drawn by (seed, epoch, step) alone, so every rank has
the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.core import columns
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.models.base import SharedItems
from recsys_spark.nn import noise
from recsys_spark.train.data import sides

Numbered = Iterable[tuple[int, Windows]]


class Shared:
    """A stage of train/feed/enrich.py. counts: events of each item, (I + 1,); item 0 is none."""

    def __init__(self, counts: np.ndarray, num: int, power: float, seed: int) -> None:
        self.num, self.seed = num, seed
        # An item without events keeps the weight of one: it is scored, so it may be drawn
        weight = np.maximum(counts[1:], 1).astype(np.float64) ** power
        share = weight / weight.sum()
        self.upper = torch.from_numpy(share.cumsum())
        self.log_expected = torch.from_numpy(np.log(num * share))

    def draw(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """(items int64 (S,), the log of how often a step is expected to draw each, float32)."""
        key = noise.key(self.seed, "shared", epoch, step)
        # 24 bits would be too coarse for the rare ones of a large catalogue
        high, low = (noise.integers(key, torch.arange(self.num), 1 << 26, 2)).unbind(1)
        uniform = (high.double() + low.double() * 2.0**-26) * 2.0**-26
        place = torch.searchsorted(self.upper, uniform, right=True).clamp(max=len(self.upper) - 1)
        return place + 1, self.log_expected[place].float()

    def __call__(
        self, batches: Numbered, epoch: int, first_step: int
    ) -> Iterator[tuple[int, Windows]]:
        for step, (number, batch) in enumerate(batches, first_step):
            yield number, batch.sharing(*self.draw(epoch, step))


def stage(job: TrainJob, shards: ShardSet, draw: SharedItems) -> Shared:
    _, items = sides.csr(job.shards, sides.need(shards, columns.HISTORY, job.shards))
    counts = np.bincount(items, minlength=shards.num_items + 1)
    return Shared(counts, draw.num, draw.power, job.seed)

"""Adds to each batch what the model draws: one stage for each draw that the model names.

A stage depends on (seed, epoch, step, row) alone, never on a rank, so that any number of ranks
gives the same batches. To add a kind of draw: its class in models/base.py, which says what a model
may ask for; its file in this folder; and a line in `_STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from recsys_spark.batches.base import Batch
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.models.base import Draw, Histories, NegativeItems, SharedItems
from recsys_spark.train.data import sides
from recsys_spark.train.feed import histories, shared
from recsys_spark.train.feed.negatives import Negatives, Seen

Numbered = Iterable[tuple[int, Batch]]  # (rows of the step over all ranks, this rank's rows)
Stage = Callable[[Numbered, int, int], Iterator[tuple[int, Batch]]]  # (batches, epoch, first step)


def stages(job: TrainJob, shards: ShardSet, draws: Iterable[Draw]) -> list[Stage]:
    """The stages of the draws. Raises ShardError where the set lacks a side file that a draw
    needs.
    """
    return [_STAGES[type(draw)](job, shards, draw) for draw in draws]


def through(
    stages: Iterable[Stage], batches: Numbered, epoch: int, first_step: int
) -> Iterator[tuple[int, Batch]]:
    """The batches of the steps from `first_step` on, after all stages."""
    for stage in stages:
        batches = stage(batches, epoch, first_step)
    yield from batches


def _negatives(job: TrainJob, shards: ShardSet, draw: NegativeItems) -> Stage:
    indptr, indices = sides.csr(job.shards, sides.need(shards, "seen", job.shards))
    if not draw.unmet:
        indptr, indices = np.zeros_like(indptr), indices[:0]
    negatives = Negatives(Seen(indptr, indices, shards.num_items), draw.num, job.seed)
    return negatives.ahead


_STAGES: dict[type[Draw], Callable[[TrainJob, ShardSet, Draw], Stage]] = {
    NegativeItems: _negatives,  # type: ignore[dict-item]
    Histories: histories.stage,  # type: ignore[dict-item]
    SharedItems: shared.stage,  # type: ignore[dict-item]
}

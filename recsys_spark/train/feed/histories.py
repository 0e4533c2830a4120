"""Gathers the windows of layout sequence from its side file of histories, which is mapped once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.core import columns
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.core.errors import ShardError
from recsys_spark.models.base import Histories
from recsys_spark.train.data import sides

Numbered = Iterable[tuple[int, Windows]]


class Gathered:
    """A stage of train/feed/enrich.py."""

    def __init__(
        self, history: Ragged, later: torch.Tensor, length: int, ages: torch.Tensor | None = None
    ) -> None:
        self.history, self.later, self.length, self.ages = history, later, length, ages

    def __call__(
        self, batches: Numbered, epoch: int, first_step: int
    ) -> Iterator[tuple[int, Windows]]:
        for number, batch in batches:
            yield number, batch.reading(self.history, self.later, self.length, self.ages)


def stage(job: TrainJob, shards: ShardSet, draw: Histories) -> Gathered:
    """Raises ShardError where rows predict more events than the model reads: of some it would see
    nothing.
    """
    targets = shards.statistics.get(columns.ROW_TARGETS, 0.0)
    if targets > draw.length:
        raise ShardError(
            f"shard set {job.shards}",
            found=f"rows of up to {targets:g} events to predict",
            expected=f"at most {draw.length}, the events that {job.model} reads",
            remedy=f"export with row_targets={draw.length}, or set config.length={targets:g}",
        )
    side = sides.need(shards, columns.HISTORY, job.shards)
    history = Ragged(*map(torch.from_numpy, sides.csr(job.shards, side)))
    later = torch.from_numpy(sides.values(job.shards, side))
    return Gathered(history, later, draw.length, _ages(job, shards) if draw.ages else None)


def _ages(job: TrainJob, shards: ShardSet) -> torch.Tensor:
    if columns.AGES not in shards.side:
        raise ShardError(
            f"shard set {job.shards}",
            found="no ages of events",
            expected=f"the side file {columns.AGES}, which {job.model} reads",
            remedy="export with `ages: true`, or set config.age=false",
        )
    return torch.from_numpy(sides.values(job.shards, shards.side[columns.AGES]))

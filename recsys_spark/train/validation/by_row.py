"""Errors over the rows of the valid part: ratings, clicks, every task that scores rows."""

from __future__ import annotations

import torch

from recsys_spark.batches import registry
from recsys_spark.core import columns
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.core.errors import ShardError
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.models.base import Model
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.validation.base import CELLS, Validator

_BATCH = 65536  # rows of the valid part predicted at once, over all ranks


def make(job: TrainJob, shards: ShardSet, workers: Workers, kind: str) -> Validator:
    """Raises ShardError for a set without a valid part, or whose labels are not of this task."""
    task = TASKS[kind]
    assert task.errors is not None, f"task {kind} scores no rows"
    _check(job, shards, kind)
    batches = registry.find(shards.layout)
    rows = batches.rows_at_once(CELLS, _BATCH, shards.num_users, shards.num_items)
    reader, shares = _reader(job, workers, rows)

    def validate(model: Model) -> dict[str, float]:
        sums = torch.zeros(len(task.monitors) + 1, dtype=torch.float64)  # errors, and rows
        weight = next(model.parameters())
        for columns_of_rows in reader.epoch(0) if shares else ():
            batch = batches.of(columns_of_rows).to(weight.device, weight.dtype)
            predicted = model.predict(batch)[kind].double().cpu().numpy()
            label = batch.targets().double().cpu().numpy()
            errors = task.errors(label, predicted)  # type: ignore[misc]
            added = [float(errors[name].sum()) for name in task.monitors]
            sums += torch.tensor([*added, float(len(label))], dtype=torch.float64)
            workers.beat.work()
        workers.all_reduce_sum([sums])
        *totals, count = sums.tolist()
        return {
            name: task.mean(name, total, count)
            for name, total in zip(task.monitors, totals, strict=True)
        }

    return validate


def _check(job: TrainJob, shards: ShardSet, kind: str) -> None:
    task, low, high = TASKS[kind], shards.statistics["label_min"], shards.statistics["label_max"]
    if task.binary and not 0.0 <= low <= high <= 1.0:
        raise ShardError(
            f"shard set {job.shards}, labels",
            found=f"{low:g} to {high:g}",
            expected=f"0 and 1, for {job.model} predicts {task.title.lower()}",
            remedy=task.remedy,
        )
    if columns.VALID not in shards.parts or shards.parts[columns.VALID].rows == 0:
        raise ShardError(
            f"shard set {job.shards}, part valid",
            found="no rows",
            expected="ratings to validate on",
            remedy="export the shards with a split that has validation events",
        )


def _reader(job: TrainJob, workers: Workers, rows: int) -> tuple[Reader, bool]:
    """(reader, whether this rank reads). A small valid part may have fewer row groups than there
    are ranks: rank 0 alone then reads it.
    """

    def reader(rank: int, num_ranks: int) -> Reader:
        return Reader(
            job.shards,
            columns.VALID,
            batch_size=rows,
            seed=job.seed,
            rank=rank,
            num_ranks=num_ranks,
            settings=job.train.reader,
        )

    try:
        return reader(workers.rank, workers.size), True
    except ShardError:
        return reader(0, 1), workers.rank == 0

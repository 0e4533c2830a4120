"""The validation of a job, by all ranks: each takes its share, the sums are added, divided once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.models.base import Model
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.validation import by_row, ranking
from recsys_spark.train.validation.base import Validator

_MAKERS = {"lists": ranking.make, "rows": by_row.make}


def make(
    job: TrainJob,
    shards: ShardSet,
    model: Model,
    workers: Workers,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Validator:
    """What to call after an epoch; `whole` is in force around it. Raises ShardError when the shard
    set holds nothing to validate on.
    """
    validate = _MAKERS[TASKS[model.task].scored](job, shards, workers, model.task)

    def run(model: Model) -> dict[str, float]:
        model.eval()
        with torch.no_grad(), whole():
            metrics = validate(model)
        model.train()
        return metrics

    return run

"""Full ranking of the catalogue for users with targets, the items they have met left out unless
`train.seen` keeps them.
"""

from __future__ import annotations

import numpy as np
import torch

from recsys_spark.batches import registry
from recsys_spark.batches.base import Ragged
from recsys_spark.batches.query import Query
from recsys_spark.core import columns, seeds
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.core.errors import ShardError
from recsys_spark.metrics import ranking
from recsys_spark.metrics.tasks import RANKING
from recsys_spark.models.base import Model
from recsys_spark.scoring import topk
from recsys_spark.train.data import sides
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.validation.base import CELLS, Validator


def make(job: TrainJob, shards: ShardSet, workers: Workers, kind: str) -> Validator:
    """Each rank ranks for its share of the users. Raises ShardError for a set without targets."""
    targets = sides.csr(job.shards, sides.need(shards, "targets", job.shards))
    seen = sides.csr(job.shards, sides.need(shards, "seen", job.shards))
    ordered = registry.find(shards.layout).repeats
    read = (
        sides.csr(job.shards, sides.need(shards, columns.HISTORY, job.shards)) if ordered else seen
    )
    users = _users(targets[0], job)[workers.rank :: workers.size]
    shown = tuple(dict.fromkeys([*RANKING.monitors, job.train.monitor or RANKING.monitors[0]]))
    ks = tuple(sorted({int(name.partition("@")[2]) for name in shown}))
    block = max(1, CELLS // (shards.num_items + 1))

    def validate(model: Model) -> dict[str, float]:
        sums = torch.zeros(2, len(shown), dtype=torch.float64)
        device = next(model.parameters()).device
        for start in range(0, len(users), block):
            ranked = users[start : start + block]
            history = topk.rows_of(*read, ranked)
            left_out = (
                topk.rows_of(*seen, ranked)
                if job.train.seen == "leave_out"
                else _nothing(len(ranked))
            )
            user = torch.from_numpy(ranked).int()
            query = Query(user, history, exclude=left_out).to(device)
            best = topk.top_k(
                model.score(query), query.named, query.left_out, max(ks), job.seed, job.model
            )
            wanted = topk.rows_of(*targets, ranked)
            values = ranking.from_lists(
                best.items.cpu().numpy(), wanted.offsets.numpy(), wanted.values.numpy(), ks
            )
            added = ranking.Sums.of({name: values[name] for name in shown})
            sums += torch.from_numpy(np.stack([added.values, added.counts]))
            workers.beat.work()
        workers.all_reduce_sum([sums])
        return dict(zip(shown, (sums[0] / sums[1]).tolist(), strict=True))

    return validate


def _nothing(rows: int) -> Ragged:
    return Ragged(torch.zeros(rows + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32))


def _users(indptr: np.ndarray, job: TrainJob) -> np.ndarray:
    """int64: those with targets, in order; of more than `train.validate_users` as many, drawn by
    the seed.
    """
    users = np.flatnonzero(np.diff(indptr))
    if not len(users):
        raise ShardError(
            f"shard set {job.shards}, side file targets",
            found="no validation event",
            expected="at least one",
            remedy="export the shards with a split that has validation events",
        )
    most = job.train.validate_users
    if most and len(users) > most:
        rng = np.random.default_rng(seeds.derive(job.seed, "validate"))
        users = np.sort(rng.choice(users, most, replace=False))
    return users

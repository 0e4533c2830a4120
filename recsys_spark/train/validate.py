"""Validation after each epoch, by all ranks: each takes its share, the sums are added, divided once.

Ranking models: full ranking of the catalogue for every user with targets, seen items left out. Rating and click models: errors
over the valid part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from recsys_spark.core import columns, contracts
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.core.errors import ConfigError, ShardError, nearest
from recsys_spark.metrics import ctr, names, ranking, rating
from recsys_spark.models.base import Model
from recsys_spark.models.batches import Profile, Query
from recsys_spark.scoring import topk
from recsys_spark.train import places
from recsys_spark.train.collate import collate
from recsys_spark.train.reader import Reader
from recsys_spark.train.workers import Workers

SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
_CELLS = 8 << 20  # scores held at once: 32 MB in float32
_BATCH = 65536  # rows of the valid part predicted at once, over all ranks
Validator = Callable[[Model], dict[str, float]]


def monitor(job: TrainJob, model: type[Model] | Model) -> tuple[str, float]:
    """(metric, sign): the larger sign * value, the better. Raises ConfigError for a metric that this model does not have."""
    known = {"rating": rating.METRICS, "click": ("log_loss",)}.get(model.task_of(job.config), SHOWN)
    metric = job.train.monitor or known[0]
    other = f", or another of {', '.join(ranking.METRICS)} at any number of items" if known == SHOWN else ""
    if metric not in known and not (other and _cut(metric)):
        raise ConfigError("train.monitor", found=repr(metric), expected=f"one of {', '.join(known)}{other}{nearest(metric, known)}")
    return metric, -1.0 if metric in names.LOWER_IS_BETTER else 1.0


def _cut(metric: str) -> int:
    """The k of a ranking metric `name@k`; 0: it is none."""
    name, _, k = metric.partition("@")
    return int(k) if name in ranking.METRICS and k.isdecimal() else 0


def nothing(model: Model) -> dict[str, float]:
    """Of a training whose epochs are known before."""
    return {}


def make(job: TrainJob, shards: ShardSet, model: Model, workers: Workers,
         whole: Callable[[], AbstractContextManager[None]] = nullcontext) -> Validator:
    """What to call after an epoch; `whole` is in force around it. Raises ShardError when the shard set holds nothing to validate on."""
    return _evaluating(_ranking(job, shards, workers) if model.task == "ranking" else _by_row(job, shards, workers, model.task), whole)


def load_csr(folder: str, csr: contracts.Csr) -> tuple[np.ndarray, np.ndarray]:
    """(indptr, indices), memory-mapped: one copy for all ranks of a host."""
    indptr, indices = (np.load(places.side(folder, name, digest), mmap_mode="r") for name, digest in (
        (csr.indptr, csr.indptr_digest), (csr.indices, csr.indices_digest)))
    return indptr, indices


def need_side(shards: ShardSet, name: str, folder: str) -> contracts.Csr:
    if name not in shards.side:
        raise ShardError(f"shard set {folder}, side file {name}", found=", ".join(sorted(shards.side)) or "no side file", expected=name,
                         remedy="export the shards with a split that has validation events")
    return shards.side[name]


def _by_row(job: TrainJob, shards: ShardSet, workers: Workers, task: str) -> Validator:
    low, high = shards.statistics["label_min"], shards.statistics["label_max"]
    if task == "click" and not 0.0 <= low <= high <= 1.0:
        raise ShardError(f"shard set {job.shards}, labels", found=f"{low:g} to {high:g}",
                         expected=f"0 and 1, for {job.model} predicts clicks",
                         remedy="export a split of rule click_time, or one whose values are 0 and 1")
    if columns.VALID not in shards.parts or shards.parts[columns.VALID].rows == 0:
        raise ShardError(f"shard set {job.shards}, part valid", found="no rows", expected="ratings to validate on",
                         remedy="export the shards with a split that has validation events")
    # Profiles are dense where they are predicted: as many at once as make _CELLS cells.
    rows = max(1, _CELLS // (1 + max(shards.num_users, shards.num_items))) if shards.layout == "profile" else _BATCH
    # A small valid part may have fewer row groups than ranks: rank 0 alone then reads it.
    try:
        reader = Reader(job.shards, columns.VALID, batch_size=rows, seed=job.seed, rank=workers.rank, num_ranks=workers.size,
                        settings=job.train.reader)
        mine = True
    except ShardError:
        reader = Reader(job.shards, columns.VALID, batch_size=rows, seed=job.seed, rank=0, num_ranks=1, settings=job.train.reader)
        mine = workers.rank == 0

    def validate(model: Model) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)  # squared (click: logarithmic) errors, absolute errors, labels
        weight = next(model.parameters())
        for numbers in reader.epoch(0) if mine else ():
            batch = collate(numbers, model.layout).to(weight.device, weight.dtype)
            predicted = model.predict(batch)[task].double()
            label = (batch.held_values if isinstance(batch, Profile) else batch.label).double()
            label, predicted = label.cpu(), predicted.cpu()
            error = predicted - label
            loss = error.square() if task == "rating" else torch.from_numpy(ctr.log_loss(label.numpy(), predicted.numpy()))
            sums += torch.stack([loss.sum(), error.abs().sum(), torch.tensor(float(len(error)), dtype=torch.float64)])
            workers.beat.work()
        workers.all_reduce_sum([sums])
        main, absolute, count = sums.tolist()
        return {"rmse": (main / count) ** 0.5, "mae": absolute / count} if task == "rating" else {"log_loss": main / count}

    return validate


def _ranking(job: TrainJob, shards: ShardSet, workers: Workers) -> Validator:
    targets = load_csr(job.shards, need_side(shards, "targets", job.shards))
    seen = load_csr(job.shards, need_side(shards, "seen", job.shards))
    users = np.flatnonzero(np.diff(targets[0]))
    if not len(users):
        raise ShardError(f"shard set {job.shards}, side file targets", found="no validation event", expected="at least one",
                         remedy="export the shards with a split that has validation events")
    users = users[workers.rank :: workers.size]
    shown = tuple(dict.fromkeys([*SHOWN, job.train.monitor or SHOWN[0]]))
    ks = tuple(sorted({_cut(name) for name in shown}))
    block = max(1, _CELLS // (shards.num_items + 1))

    def validate(model: Model) -> dict[str, float]:
        sums = torch.zeros(2, len(shown), dtype=torch.float64)
        device = next(model.parameters()).device
        for start in range(0, len(users), block):
            mine = users[start : start + block]
            history = topk.rows_of(*seen, mine)
            history = type(history)(history.offsets.to(device), history.values.to(device))
            query = torch.from_numpy(mine).to(device)
            best = topk.top_k(model.score(Query(query.int(), history)), query, history, max(ks), job.seed, job.model)
            wanted = topk.rows_of(*targets, mine)
            values = ranking.from_lists(best.items.cpu().numpy(), wanted.offsets.numpy(), wanted.values.numpy(), ks)
            added = ranking.Sums.of({name: values[name] for name in shown})
            sums += torch.from_numpy(np.stack([added.values, added.counts]))
            workers.beat.work()
        workers.all_reduce_sum([sums])
        return dict(zip(shown, (sums[0] / sums[1]).tolist(), strict=True))

    return validate


def _evaluating(validate: Validator, whole: Callable[[], AbstractContextManager[None]]) -> Validator:
    def run(model: Model) -> dict[str, float]:
        model.eval()
        with torch.no_grad(), whole():
            metrics = validate(model)
        model.train()
        return metrics

    return run


def improved(value: Tensor | float, best: float | None, sign: float) -> bool:
    """Beyond rounding: sums over another number of ranks may differ in the last bits, and must not choose another epoch."""
    return best is None or sign * (float(value) - best) > 1e-9 * max(1.0, abs(best))

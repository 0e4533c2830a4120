"""Identifies this rank from the environment of the program that started it, and checks a job before
any rank is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch

from recsys_spark.core import shardset
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import ConfigError, ShardError
from recsys_spark.train.data import places
from recsys_spark.train.ranks import workers

LAUNCHER, HOROVODRUN, TORCHRUN, NOBODY = "the launcher", "horovodrun", "torchrun", "nobody"


class Rank(NamedTuple):
    """One rank among `size`, the `local_rank`-th on its host, and the program that started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    by: str = NOBODY


def here(environment: Mapping[str, str] = os.environ) -> Rank:
    """The launcher's own variables take precedence: a launcher may itself have been started by
    horovodrun or torchrun.
    """
    named = {
        LAUNCHER: (workers.RANK, workers.SIZE, workers.RANK),
        HOROVODRUN: ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
        TORCHRUN: ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    }
    for by, names in named.items():
        if names[0] in environment:
            missing = [name for name in names if not environment.get(name, "").isdigit()]
            if missing:
                raise ConfigError(
                    f"environment variable {missing[0]}",
                    found=environment.get(missing[0], "none"),
                    expected=f"a number, as {by} sets it beside {names[0]}",
                    remedy=f"start the ranks through {by}",
                )
            rank, size, local_rank = (int(environment[name]) for name in names)
            return Rank(rank, size, local_rank, by)
    return Rank()


def placed(job: TrainJob, rank: Rank) -> TrainJob:
    """The job as this rank runs it: engine, number of ranks and device resolved. Raises ConfigError
    or ShardError when it cannot run here.
    """
    settings = job.workers
    engine = workers.resolve(settings.engine, rank.size)
    needed = {HOROVODRUN: "horovod", TORCHRUN: "torch"}.get(rank.by, engine)
    if settings.engine == "auto" and rank.size > 1:
        engine = needed
    if engine != needed and engine != "single":
        raise ConfigError(
            "workers.engine",
            found=f"{engine} in a rank that {rank.by} started",
            expected=needed,
            remedy=f"set workers.engine={needed} (or auto) "
            "when the job is prepared, or start the ranks through the launcher",
        )
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    resolved = job.model_copy(
        update={
            "workers": settings.model_copy(
                update={
                    "engine": engine,
                    "num_workers": rank.size,
                    "device": device,
                    "min_workers": 0,
                }
            )
        }
    )
    check(resolved)
    return resolved


def gpu(device: str, local_rank: int) -> int:
    """The number of this rank's own GPU; 0 on a CPU. Raises ConfigError when there is none for it:
    no two ranks share a GPU.
    """
    if device != "cuda":
        return 0
    visible = torch.cuda.device_count()
    if visible == 1 and os.environ.get("CUDA_VISIBLE_DEVICES", "").strip().isdigit():
        return 0  # the scheduler made a single GPU visible to this rank
    if local_rank >= visible:
        raise ConfigError(
            "workers.device",
            found=f"cuda with {visible} GPUs on this host, none for its rank {local_rank}",
            expected="a GPU for each rank",
            remedy="start fewer ranks a host, or set workers.device=auto (CPU where there "
            "is no GPU) or cpu",
        )
    return local_rank


def check(job: TrainJob) -> None:
    """All checks that are possible before a rank is started. Raises ConfigError, ShardError."""
    settings = job.workers
    engine, number = workers.resolve(settings.engine, settings.num_workers), settings.num_workers
    if engine == "single" and number > 1:
        raise ConfigError(
            "workers.engine",
            found=f"single with workers.num_workers={number}",
            expected="horovod or torch",
            remedy="set workers.engine=horovod, or workers.num_workers=1",
        )
    shards = places.load(job.shards, expect=job.shard_fingerprint)
    part = shards.parts.get("train")
    if part is None or not part.rows:
        raise ShardError(
            f"shard set {job.shards}, part train",
            found="no rows",
            expected="rows to train on",
            remedy=shardset.REMEDY,
        )
    if shards.virtual_shards % number:
        raise ShardError(
            "workers.num_workers",
            found=number,
            expected=f"a divisor of the {shards.virtual_shards} virtual shards: "
            + ", ".join(map(str, divisors(shards.virtual_shards))),
            remedy="set workers.num_workers to one of these",
        )
    groups = [0] * number
    for file in part.files:
        for shard in file.dealt:
            groups[shard % number] += 1
    if 0 in groups:
        raise ShardError(
            f"shard set {job.shards}, part train",
            found=f"{sum(groups)} row groups, none for worker {groups.index(0)}",
            expected=f"at least one for each of {number} workers",
            remedy="set fewer workers.num_workers, or export with smaller row groups",
        )


def divisors(number: int) -> list[int]:
    """The divisors of the number of virtual shards: the numbers of ranks that can share them
    evenly.
    """
    return [n for n in range(1, number + 1) if number % n == 0]

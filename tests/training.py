"""Small training jobs for the tests of the loop and the launcher, and ranks that start quickly."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import ShardSet, Train, TrainJob, TrainResult, Workers
from recsys_spark.models import registry
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint
from tests import toys
from tests.models import worlds

# Settings away from their defaults that change what a checkpoint holds. No model need stand here.
UNUSUAL: dict[str, dict[str, Any]] = {
    "autorec_user": {"centred": True},
    "bpr_mf": {"num_negatives": 2},
}


def small(model: str) -> dict[str, Any]:
    """A small configuration of any model, also of one that was added a minute ago."""
    return worlds.tiny(registry.find(model)) | UNUSUAL.get(model, {})


class Two(workers.Workers):
    """Two ranks that hold the same numbers; counts what they exchange."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=2)
        self.calls: list[int] = []

    def _sum(self, flat: torch.Tensor) -> None:
        self.calls.append(flat.numel())
        flat.mul_(2)

    def _copy(self, flat: torch.Tensor) -> None:
        self.calls.append(flat.numel())


def job(
    run_dir: Path,
    shards: Path,
    made: ShardSet,
    model: str = "mf_bias",
    *,
    seed: int = 1,
    engine: str = "auto",
    num_workers: int = 1,
    timeout_s: float = 60.0,
    config: dict[str, Any] | None = None,
    **train: Any,
) -> TrainJob:
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = {
        "batch_size": 50,
        "epochs": 3,
        "dtype": "float64",
        "optim": {"lr": 0.01},
        "reader": {"engine": "arrow"},
        **train,
    }
    return TrainJob(
        run_id=run_dir.name,
        run_dir=str(run_dir),
        shards=str(shards),
        shard_fingerprint=made.fingerprint,
        model=model,
        config=config or small(model),
        train=Train(**settings),
        seed=seed,
        workers=Workers(engine=engine, num_workers=num_workers, threads=1, timeout_s=timeout_s),
    )  # type: ignore[arg-type]


def train_here(made: TrainJob, **more: Any) -> TrainResult | None:
    """In this process, as the only rank."""
    torch.set_num_threads(1)
    return Loop(made, workers.Workers(), **more).run()


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, which must be whole."""
    newest = checkpoint.folders(run_dir)[-1]
    checkpoint.verify(newest)
    return load_file(newest / "model.safetensors")


def difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest absolute one of any weight."""
    assert one.keys() == two.keys()
    return max(float((one[key] - two[key]).abs().max()) for key in one)


def train_on_ranks(
    made: TrainJob, limit_s: float = 60.0, *, pinned: int | None = None, with_toys: bool = False
) -> list[int | None]:
    """Every rank as the launcher would start it, but forked from a process that has imported torch:
    a second instead of five.

    pinned: each on a core of its own from that one on, all its threads included.
    """
    cores = [] if pinned is None else sorted(os.sched_getaffinity(0))[pinned:]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recsys_spark.train.entry", "horovod.torch", "tests.training"])
    artifacts.write_model(Path(made.run_dir) / entry.JOB, made)
    number = made.workers.num_workers
    with launch.meeting(workers.resolve(made.workers.engine, number), number) as meeting:
        ranks = [
            context.Process(
                target=_rank,
                args=(
                    str(Path(made.run_dir) / entry.JOB),
                    rank,
                    number,
                    environment,
                    cores[rank : rank + 1],
                    with_toys,
                ),
            )
            for rank, environment in enumerate(meeting)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(limit_s)
            process.kill()
    return [process.exitcode for process in ranks]


def _rank(
    job_path: str,
    rank: int,
    size: int,
    environment: dict[str, str],
    cores: list[int],
    with_toys: bool,
) -> None:
    if with_toys:
        toys.install()
    if cores:
        os.sched_setaffinity(0, cores)
    os.environ.update({**environment, workers.RANK: str(rank), workers.SIZE: str(size)})
    os._exit(entry.run_rank(job_path))

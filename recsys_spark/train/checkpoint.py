"""Checkpoints: a folder with everything that a resumed training needs, whole or absent, verified before it is believed.

    checkpoints/step-00001234/  model.json, model.safetensors   the model (models/store.py); scoring reads just these
                                optim.safetensors               the optimiser's moments, and the carry of every rank
                                state.json                      State: where the training stands
                                manifest.json                   Manifest: whose it is; bytes and SHA-256 of each file
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import VERSION, TrainJob
from recsys_spark.core.errors import CheckpointError
from recsys_spark.models import store
from recsys_spark.models.base import Model
from recsys_spark.train.workers import Workers

FOLDER, MANIFEST, STATE, OPTIM = "checkpoints", "manifest.json", "state.json", "optim.safetensors"
BEST, LAST = "best.json", "last.json"


class State(BaseModel):
    """Where a training stands, between two steps. Floats survive JSON to the last bit."""

    model_config = ConfigDict(extra="forbid")

    phase: int = 0  # which of the model's phases it is in
    phase_epoch: int = 0  # the epoch in which that one began
    epoch: int = 0  # being trained
    position: int = 0  # steps done in it
    step: int = 0  # optimiser steps since the start
    sums: dict[str, tuple[float, float]] = Field(default_factory=dict)  # loss term -> (sum, count) of this epoch so far
    epoch_seconds: float = 0.0  # spent in the steps of this epoch
    epoch_examples: int = 0
    seconds: float = 0.0  # the same for the epochs before
    examples: int = 0
    best_value: float | None = None  # of the monitored metric, in this phase
    best_epoch: int = -1  # the epoch after which the weights were best
    best: dict[str, float] = Field(default_factory=dict)  # validation metrics of those weights
    best_checkpoint: str = ""  # relative to the run folder
    stale: int = 0  # epochs of this phase without improvement
    phase_epochs: list[int] = Field(default_factory=list)  # of each phase that is over, until its best weights
    ended: bool = False
    record: dict[str, Any] = Field(default_factory=dict)  # the last line of metrics.jsonl


class Resumed(NamedTuple):
    """What a checkpoint holds besides the weights."""

    state: State
    carry: dict[str, Tensor]
    moments: dict[str, Tensor]  # of the optimiser of the state's phase, for `optim.unpack`, with its groups
    groups: list[dict[str, Any]]


class File(Settings):
    bytes: int
    sha256: str


class Manifest(Settings):
    version: int = VERSION
    model: str
    shard_fingerprint: str
    job_digest: str
    num_workers: int
    step: int
    files: dict[str, File]


def digest(job: TrainJob) -> str:
    """Of all that decides the numbers. Where it runs, on how many ranks and how often it saves do not."""
    facts = job.model_dump(mode="json", exclude={"run_id", "run_dir", "shards", "workers"})
    for key in ("keep", "keep_every", "checkpoint_steps", "checkpoint_s", "checkpoint_async"):
        del facts["train"][key]
    for key in ("engine", "prefetch", "memory_bytes"):
        del facts["train"]["reader"][key]
    return artifacts.fingerprint(facts)


def name(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def resume(job: TrainJob, model: Model, part: Callable[[str, Tensor], Tensor]) -> Resumed | None:
    """Fill the model from the newest checkpoint and return the rest of it; None when there is none. part: what it holds of a tensor.

    Raises CheckpointError for one that is cut short, altered, or of another model, shards or job.
    """
    found = folders(Path(job.run_dir))
    if not found:
        return None
    folder = found[-1]
    manifest = verify(folder)
    start_anew = "resume with the job and shards of that run, or give this job an empty run folder"
    for field, expected in (("model", job.model), ("shard_fingerprint", job.shard_fingerprint), ("job_digest", digest(job))):
        value = getattr(manifest, field)
        if value != expected:
            raise CheckpointError(f"checkpoint {folder}, {field}", found=value[:40], expected=expected[:40], remedy=start_anew)
    store.restore(folder, model, job.model, part)
    saved = artifacts.read_model(folder / STATE, StateFile, error=CheckpointError, remedy=remedy(folder))
    tensors = load_file(folder / OPTIM)
    carry = {key.removeprefix("carry."): value for key, value in tensors.items() if key.startswith("carry.")}
    moments = {key: value for key, value in tensors.items() if not key.startswith("carry.")}
    return Resumed(saved.state, carry, moments, saved.groups)


def restore_best(job: TrainJob, state: State, model: Model, part: Callable[[str, Tensor], Tensor]) -> None:
    """Give the model the weights of the best epoch. Raises CheckpointError when that checkpoint is gone or not whole."""
    verify(Path(job.run_dir) / state.best_checkpoint)
    store.restore(Path(job.run_dir) / state.best_checkpoint, model, job.model, part)


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint whose files are all there, of the right size and digest. Raises CheckpointError."""
    manifest = artifacts.read_model(folder / MANIFEST, Manifest, error=CheckpointError, remedy=remedy(folder))
    for file, wanted in manifest.files.items():
        path = folder / file
        if not path.exists():
            raise CheckpointError(f"checkpoint file {path}", found="no such file", expected=f"{wanted.bytes} bytes", remedy=remedy(folder))
        if (size := path.stat().st_size) != wanted.bytes:
            raise CheckpointError(f"checkpoint file {path}", found=f"{size} bytes", expected=f"{wanted.bytes} bytes (is it cut short?)",
                                  remedy=remedy(folder))
        if (sha256 := artifacts.file_digest(path)) != wanted.sha256:
            raise CheckpointError(f"checkpoint file {path}", found=f"SHA-256 {sha256[:12]}", expected=wanted.sha256[:12],
                                  remedy=remedy(folder))
    return manifest


def folders(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*"))


def carries(run: Path) -> bool:
    """Whether the newest checkpoint holds a state of each rank, so that only the same number of ranks can go on from it."""
    found = folders(run)
    if not found:
        return False
    with safe_open(found[-1] / OPTIM, "pt") as held:
        return any(key.startswith("carry.") for key in held.keys())  # noqa: SIM118


def clean(run: Path) -> None:
    """Remove what killed writers left."""
    for left in (run / FOLDER).glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)


def gathered(carry: Mapping[str, Tensor], workers: Workers) -> dict[str, Tensor]:
    """name -> (ranks, *shape), on the CPU: what each rank carries, (*shape)."""
    made = {}
    for key, mine in sorted(carry.items()):
        every = mine.new_zeros(workers.size, *mine.shape)
        every[workers.rank] = mine
        workers.all_reduce_sum([every])
        made[key] = every.cpu()
    return made


def own(key: str, gathered: Tensor, workers: Workers) -> Tensor:
    """This rank's part of a carry, (ranks, *shape) -> (*shape). Raises CheckpointError for another number of ranks."""
    if len(gathered) != workers.size:
        raise CheckpointError(f"carry {key} of the checkpoint", found=f"the states of {len(gathered)} workers", expected=f"{workers.size}",
                              remedy=f"resume with workers.num_workers={len(gathered)}")
    return gathered[workers.rank].clone()


class StateFile(Settings):
    """STATE."""

    state: State
    groups: list[dict[str, Any]]  # of the optimiser


def remedy(folder: Path) -> str:
    older = [other for other in folders(folder.parent.parent) if other < folder]
    go_on = f"training then resumes from {older[-1].name}" if older else "training then starts anew"
    return f"remove the folder {folder}; {go_on}"

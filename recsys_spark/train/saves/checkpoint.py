"""Checkpoints: a folder with everything that a resumed training needs. It is written atomically and
verified before use.

In checkpoints/step-00001234/:

model.json, model.safetensors   the model (models/store.py); scoring reads just these
optim.safetensors               the optimiser's moments, and the state kept between batches
state.json                      State: the position of the training
manifest.json                   Manifest: the job it belongs to; bytes and SHA-256 of each file
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import VERSION, TrainJob
from recsys_spark.core.errors import CheckpointError
from recsys_spark.models import store
from recsys_spark.models.base import Model
from recsys_spark.train.ranks.workers import Workers

FOLDER, MANIFEST, STATE, OPTIM = "checkpoints", "manifest.json", "state.json", "optim.safetensors"
BEST, LAST = "best.json", "last.json"


class State(BaseModel):
    """The position of a training, between two steps. Floats keep every bit in JSON."""

    model_config = ConfigDict(extra="forbid")

    phase: int = 0  # number of the model's phase
    phase_epoch: int = 0  # the epoch in which the phase began
    epoch: int = 0  # the epoch being trained
    position: int = 0  # steps done in the epoch
    step: int = 0  # optimiser steps since the start
    # Loss term -> (sum, count) of this epoch so far
    sums: dict[str, tuple[float, float]] = Field(default_factory=dict)
    epoch_seconds: float = 0.0  # spent in the steps of this epoch
    epoch_examples: int = 0
    seconds: float = 0.0  # in the steps of the epochs before
    examples: int = 0
    best_value: float | None = None  # of the monitored metric, in this phase
    best_epoch: int = -1  # the epoch after which the weights were best
    best: dict[str, float] = Field(default_factory=dict)  # validation metrics of those weights
    best_checkpoint: str = ""  # relative to the run folder
    stale: int = 0  # epochs of this phase without improvement
    # epochs of each finished phase, up to its best weights
    phase_epochs: list[int] = Field(default_factory=list)
    ended: bool = False
    record: dict[str, Any] = Field(default_factory=dict)  # the last line of metrics.jsonl

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.position = 0
        self.sums = {}
        self.epoch_seconds = 0.0
        self.epoch_examples = 0


class Resumed(NamedTuple):
    """The content of a checkpoint besides the weights."""

    state: State
    carry: dict[str, Tensor]
    # Moments and groups of the optimiser of the state's phase, for `optim.unpack`
    moments: dict[str, Tensor]
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
    """Digest of all settings that change the results. Where the job runs, on how many ranks and how
    often it saves are left out.
    """
    facts = job.model_dump(mode="json", exclude={"run_id", "run_dir", "shards", "workers"})
    for key in ("keep", "keep_every", "checkpoint_steps", "checkpoint_s", "checkpoint_async"):
        del facts["train"][key]
    for key in ("engine", "prefetch", "memory_bytes"):
        del facts["train"]["reader"][key]
    return artifacts.fingerprint(facts)


def name(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def resume(
    job: TrainJob, model: Model, workers: Workers, part: Callable[[str, Tensor], Tensor]
) -> Resumed | None:
    """Fill the model from the newest checkpoint. Returns the rest of the checkpoint; None when
    there is none. part: the slice of a tensor that this rank holds.

    Rank 0 chooses the checkpoint for all ranks, because a stale listing of a shared folder must not
    give two ranks different ones; rank 0 alone compares digests. Raises CheckpointError for one
    that is truncated, altered, or of another model, shards or job, or that this rank does not see.
    """
    folder = _chosen(Path(job.run_dir), workers)
    if folder is None:
        return None
    manifest = verify(folder, digests=workers.rank == 0)
    start_anew = "resume with the job and shards of that run, or give this job an empty run folder"
    for field, expected in (
        ("model", job.model),
        ("shard_fingerprint", job.shard_fingerprint),
        ("job_digest", digest(job)),
    ):
        value = getattr(manifest, field)
        if value != expected:
            raise CheckpointError(
                f"checkpoint {folder}, {field}",
                found=value[:40],
                expected=expected[:40],
                remedy=start_anew,
            )
    store.restore(folder, model, job.model, part)
    saved = artifacts.read_model(
        folder / STATE, StateFile, error=CheckpointError, remedy=remedy(folder)
    )
    tensors = load_file(folder / OPTIM)
    carry = {
        key.removeprefix("carry."): value
        for key, value in tensors.items()
        if key.startswith("carry.")
    }
    moments = {key: value for key, value in tensors.items() if not key.startswith("carry.")}
    return Resumed(saved.state, carry, moments, saved.groups)


def _chosen(run: Path, workers: Workers) -> Path | None:
    """The newest checkpoint that rank 0 sees; every rank returns the same."""
    step = torch.full((1,), -1.0, dtype=torch.float64)
    if workers.rank == 0 and (newest := folders(run)[-1:]):
        step[0] = int(newest[0].name.removeprefix("step-"))
    workers.broadcast([step])
    return None if step < 0 else run / name(int(step))


def restore_best(
    job: TrainJob, state: State, model: Model, part: Callable[[str, Tensor], Tensor]
) -> None:
    """Load the weights of the best epoch into the model. Raises CheckpointError when that
    checkpoint is missing or incomplete.
    """
    verify(Path(job.run_dir) / state.best_checkpoint)
    store.restore(Path(job.run_dir) / state.best_checkpoint, model, job.model, part)


def verify(folder: Path, *, digests: bool = True) -> Manifest:
    """The manifest of a checkpoint, after checking that all files are present, of the right size
    and, with `digests`, of the right SHA-256. Raises CheckpointError.
    """
    manifest = artifacts.read_model(
        folder / MANIFEST, Manifest, error=CheckpointError, remedy=remedy(folder)
    )
    for file, expected in manifest.files.items():
        path = folder / file
        if not path.exists():
            raise CheckpointError(
                f"checkpoint file {path}",
                found="no such file",
                expected=f"{expected.bytes} bytes",
                remedy=remedy(folder),
            )
        if (size := path.stat().st_size) != expected.bytes:
            raise CheckpointError(
                f"checkpoint file {path}",
                found=f"{size} bytes",
                expected=f"{expected.bytes} bytes (is it cut short?)",
                remedy=remedy(folder),
            )
        if digests and (sha256 := artifacts.file_digest(path)) != expected.sha256:
            raise CheckpointError(
                f"checkpoint file {path}",
                found=f"SHA-256 {sha256[:12]}",
                expected=expected.sha256[:12],
                remedy=remedy(folder),
            )
    return manifest


def folders(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*"))


def clean(run: Path) -> None:
    """Remove the temporary folders that killed writers left."""
    for folder in (run / FOLDER).glob(".tmp-*"):
        shutil.rmtree(folder, ignore_errors=True)


class StateFile(Settings):
    """Content of the file STATE."""

    state: State
    groups: list[dict[str, Any]]  # of the optimiser


def remedy(folder: Path) -> str:
    older = [checkpoint for checkpoint in folders(folder.parent.parent) if checkpoint < folder]
    go_on = f"training then resumes from {older[-1].name}" if older else "training then starts anew"
    return f"remove the folder {folder}; {go_on}"

"""Checkpoints are written at once, or by a thread of its own from a copy, so that the steps go on (`train.checkpoint_async`)."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Train, TrainJob
from recsys_spark.core.errors import CheckpointError, is_disk_full
from recsys_spark.models import store
from recsys_spark.models.base import Model
from recsys_spark.train.checkpoint import (
    BEST,
    LAST,
    MANIFEST,
    OPTIM,
    STATE,
    File,
    Manifest,
    State,
    StateFile,
    digest,
    folders,
    name,
    remedy,
)


class Saver:
    """Of one rank; only that of rank 0 saves, and only it is ever due. At most one checkpoint is under way: the next save waits for it
    and raises what it raised."""

    def __init__(self, job: TrainJob, rank: int = 0) -> None:
        self.job, self.every_s = job, 0.0 if rank else job.train.checkpoint_s
        self.thread = ThreadPoolExecutor(1, "checkpoint") if job.train.checkpoint_async else None
        self.under_way: Future[None] | None = None
        self.since = time.monotonic()  # the last save

    def due(self) -> bool:
        """Whether `checkpoint_s` have passed since the last save."""
        return bool(self.every_s) and time.monotonic() - self.since >= self.every_s

    def save(self, taken: Taken) -> None:
        """As it is now, whatever is trained while it is written. Raises CheckpointError."""
        self.wait()
        if self.thread is None:
            write(self.job, taken)
        else:
            self.under_way = self.thread.submit(write, self.job, taken.copied())
        self.since = time.monotonic()

    def wait(self) -> None:
        """Until the last save is on disk. Raises CheckpointError when it failed."""
        pending, self.under_way = self.under_way, None
        if pending is not None:
            pending.result()


class Taken(NamedTuple):
    """A checkpoint in memory."""

    state: State
    model: Model  # what it is, for model.json; its weights are those beside
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]  # the optimiser's moments, and the carry
    groups: list[dict[str, Any]]  # of the optimiser

    def copied(self) -> Taken:
        """No later step changes it."""
        weights, tensors = ({key: value.to("cpu", copy=True) for key, value in each.items()} for each in (self.weights, self.tensors))
        return Taken(self.state.model_copy(deep=True), self.model, weights, tensors, json.loads(json.dumps(self.groups)))


def write(job: TrainJob, taken: Taken) -> None:
    """Write the checkpoint of `state.step`, point LAST and BEST to what they name, drop what the job no longer keeps.

    Raises CheckpointError when the weights are not finite or the disk refuses; older checkpoints stay.
    """
    state = taken.state
    _refuse_broken(taken.weights, state)
    run = Path(job.run_dir)
    try:
        with artifacts.new_folder(run / name(state.step)) as folder:
            store.save(folder, taken.model, job.model, taken.weights)
            save_file(taken.tensors, folder / OPTIM)
            artifacts.write_text(folder / STATE, StateFile(state=state, groups=taken.groups).model_dump_json(indent=1))
            files = {}
            for path in sorted(folder.iterdir()):
                with open(path, "rb") as written:
                    os.fsync(written.fileno())
                files[path.name] = File(bytes=path.stat().st_size, sha256=artifacts.file_digest(path))
            artifacts.write_model(folder / MANIFEST, Manifest(
                model=job.model, shard_fingerprint=job.shard_fingerprint, job_digest=digest(job), num_workers=job.workers.num_workers,
                step=state.step, files=files))
        point(job, state)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(f"checkpoint {run / name(state.step)}", found=" ".join(str(problem).split()), expected="room to write it",
                              remedy=_free_space(run, is_disk_full(problem))) from problem
    _prune(run, job.train, keep_also=state.best_checkpoint)


def point(job: TrainJob, state: State) -> None:
    """Write LAST and BEST."""
    run = Path(job.run_dir)
    artifacts.write_text(run / LAST, _json({"checkpoint": name(state.step), "epoch": state.epoch, "position": state.position}))
    if state.best_checkpoint:
        artifacts.write_text(run / BEST, _json({"checkpoint": state.best_checkpoint, "epoch": state.best_epoch, **state.best}))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _prune(run: Path, settings: Train, keep_also: str) -> None:
    for folder in folders(run)[:-settings.keep]:
        if folder != run / keep_also and not (settings.keep_every and _ends_epoch(folder, settings.keep_every)):
            # Renamed first: a kill between two unlinks must not leave a checkpoint with files missing.
            gone = folder.with_name(f".tmp-old-{folder.name}")
            os.rename(folder, gone)
            shutil.rmtree(gone)


def _ends_epoch(folder: Path, every: int) -> bool:
    """Whether a checkpoint stands at the end of an epoch whose number (from 1) is a multiple of `every`."""
    saved = artifacts.read_model(folder / STATE, StateFile, error=CheckpointError, remedy=remedy(folder)).state
    return saved.position == 0 and saved.epoch % every == 0


def _refuse_broken(weights: dict[str, Tensor], state: State) -> None:
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"weights {key} after step {state.step}, epoch {state.epoch}", found="numbers that are not finite",
                                  expected="finite weights", remedy="lower train.optim.lr or set train.optim.clip_norm; "
                                  "the last good checkpoint stays")


def _free_space(run: Path, full: bool) -> str:
    found = folders(run)
    left = f"; {found[-1].name} is whole and the training resumes from it" if found else ""
    return ("free some space on this disk and run again" if full else "see that the folder can be written, and run again") + left

"""Writes checkpoints, either at once or in a thread from a copy while the steps go on
(`train.checkpoint_async`).
"""

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
from recsys_spark.train.saves.checkpoint import (
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
    """Saves the checkpoints of one rank; only on rank 0 is a save ever due. At most one checkpoint
    is being written: the next save waits for it and raises what it raised.
    """

    def __init__(self, job: TrainJob, rank: int = 0) -> None:
        self.job, self.every_s = job, 0.0 if rank else job.train.checkpoint_s
        self.thread = ThreadPoolExecutor(1, "checkpoint") if job.train.checkpoint_async else None
        self.under_way: Future[None] | None = None
        self.since = time.monotonic()  # the last save

    def due(self) -> bool:
        """Whether `checkpoint_s` have passed since the last save."""
        return bool(self.every_s) and time.monotonic() - self.since >= self.every_s

    def save(self, snapshot: Taken) -> None:
        """Save the snapshot as it is now, even if training changes it during the write. Raises
        CheckpointError.
        """
        self.wait()
        if self.thread is None:
            write(self.job, snapshot)
        else:
            self.under_way = self.thread.submit(write, self.job, snapshot.copied())
        self.since = time.monotonic()

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises CheckpointError when it failed."""
        pending, self.under_way = self.under_way, None
        if pending is not None:
            pending.result()


class Taken(NamedTuple):
    """A checkpoint in memory."""

    state: State
    model: Model  # described in model.json; the weights are in `weights`
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]  # the optimiser's moments, and the carry
    groups: list[dict[str, Any]]  # of the optimiser

    def copied(self) -> Taken:
        """A copy that later steps do not change."""
        weights, tensors = (
            {key: value.to("cpu", copy=True) for key, value in source.items()}
            for source in (self.weights, self.tensors)
        )
        return Taken(
            self.state.model_copy(deep=True),
            self.model,
            weights,
            tensors,
            json.loads(json.dumps(self.groups)),
        )


def write(job: TrainJob, snapshot: Taken) -> None:
    """Write the checkpoint of `state.step`, update LAST and BEST, and remove checkpoints that the
    job no longer keeps.

    Raises CheckpointError when the weights are not finite or the disk refuses the write; older
    checkpoints stay.
    """
    state = snapshot.state
    _refuse_broken(snapshot.weights, state)
    run = Path(job.run_dir)
    try:
        with artifacts.new_folder(run / name(state.step)) as folder:
            store.save(folder, snapshot.model, job.model, snapshot.weights)
            save_file(snapshot.tensors, folder / OPTIM)
            artifacts.write_text(
                folder / STATE,
                StateFile(state=state, groups=snapshot.groups).model_dump_json(indent=1),
            )
            files = {}
            for path in sorted(folder.iterdir()):
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
                files[path.name] = File(
                    bytes=path.stat().st_size, sha256=artifacts.file_digest(path)
                )
            artifacts.write_model(
                folder / MANIFEST,
                Manifest(
                    model=job.model,
                    shard_fingerprint=job.shard_fingerprint,
                    job_digest=digest(job),
                    num_workers=job.workers.num_workers,
                    step=state.step,
                    files=files,
                ),
            )
        point(job, state)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"checkpoint {run / name(state.step)}",
            found=" ".join(str(problem).split()),
            expected="room to write it",
            remedy=_free_space(run, is_disk_full(problem)),
        ) from problem
    _prune(run, job.train, keep_also=state.best_checkpoint)


def point(job: TrainJob, state: State) -> None:
    """Write LAST and BEST."""
    run = Path(job.run_dir)
    artifacts.write_text(
        run / LAST,
        _json({"checkpoint": name(state.step), "epoch": state.epoch, "position": state.position}),
    )
    if state.best_checkpoint:
        artifacts.write_text(
            run / BEST,
            _json({"checkpoint": state.best_checkpoint, "epoch": state.best_epoch, **state.best}),
        )


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _prune(run: Path, settings: Train, keep_also: str) -> None:
    for folder in folders(run)[: -settings.keep]:
        if folder != run / keep_also and not (
            settings.keep_every and _ends_epoch(folder, settings.keep_every)
        ):
            # Renamed first: a kill between two unlinks must not leave an incomplete checkpoint.
            renamed = folder.with_name(f".tmp-old-{folder.name}")
            os.rename(folder, renamed)
            shutil.rmtree(renamed)


def _ends_epoch(folder: Path, every: int) -> bool:
    """Whether a checkpoint is at the end of an epoch whose number (from 1) is a multiple of
    `every`.
    """
    saved = artifacts.read_model(
        folder / STATE, StateFile, error=CheckpointError, remedy=remedy(folder)
    ).state
    return saved.position == 0 and saved.epoch % every == 0


def _refuse_broken(weights: dict[str, Tensor], state: State) -> None:
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"weights {key} after step {state.step}, epoch {state.epoch}",
                found="numbers that are not finite",
                expected="finite weights",
                remedy="lower train.optim.lr or set train.optim.clip_norm; "
                "the last good checkpoint stays",
            )


def _free_space(run: Path, full: bool) -> str:
    checkpoints = folders(run)
    resume = (
        f"; {checkpoints[-1].name} is whole and the training resumes from it" if checkpoints else ""
    )
    return (
        "free some space on this disk and run again"
        if full
        else "see that the folder can be written, and run again"
    ) + resume

"""The records of a training in its run folder: metrics.jsonl, one line per epoch, and
result.json.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves.checkpoint import State

METRICS, RESULT = "metrics.jsonl", "result.json"


def epoch(state: State, phase: str, metrics: dict[str, float], lr: float) -> dict[str, object]:
    """The line of the state's epoch, all steps of which are done."""
    means = {
        f"train_{name}": total / max(count, 1e-300) for name, (total, count) in state.sums.items()
    }
    return {
        "epoch": state.epoch,
        **({"phase": phase} if phase else {}),
        "step": state.step,
        **means,
        **metrics,
        "seconds": state.epoch_seconds,
        "examples_per_s": state.epoch_examples / max(state.epoch_seconds, 1e-9),
        "lr": lr,
    }


def write(run_dir: Path, state: State) -> None:
    """Rewrite metrics.jsonl: the existing lines of the epochs before the state's last record, then
    that record.
    """
    path, last = run_dir / METRICS, state.record
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    earlier = [line for line in lines if json.loads(line)["epoch"] < last.get("epoch", 0)]
    artifacts.write_text(
        path, "".join(line + "\n" for line in [*earlier, *([json.dumps(last)] if last else [])])
    )


def result(job: TrainJob, state: State, workers: Workers) -> TrainResult:
    """The result of a training that has ended; rank 0 writes its file. Every rank takes part. The
    peak of memory is that of the largest rank.
    """
    peaks = torch.zeros(workers.size, dtype=torch.float64)
    peaks[workers.rank] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    workers.all_reduce_sum([peaks])
    outcome = TrainResult(
        run_id=job.run_id,
        best_epoch=state.best_epoch,
        best=state.best,
        epochs=state.epoch,
        steps=state.step,
        examples_per_s=state.examples / max(state.seconds, 1e-9),
        seconds=state.seconds,
        peak_rss_bytes=int(peaks.max()),
        checkpoint=state.best_checkpoint,
        phase_epochs=tuple(state.phase_epochs),
    )
    if workers.rank == 0:
        artifacts.write_model(Path(job.run_dir) / RESULT, outcome)
    return outcome

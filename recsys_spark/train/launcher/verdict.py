"""Why a training ended early: one error, from the exit codes, error files and logs of its ranks."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from recsys_spark.core import errors
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import RecsysError, WorkerError
from recsys_spark.train import entry
from recsys_spark.train.ranks.watch import Lost
from recsys_spark.train.saves import checkpoint


def cause(job: TrainJob, codes: list[int | None]) -> RecsysError:
    """The error to report, in this order: one that a rank reported itself, a death, a stop; a lost
    peer is only a consequence.

    Returns Lost when a rank died or hangs, which resuming from the last checkpoint may cure; any
    other error would occur again.
    """
    problems = [
        problem for rank in range(len(codes)) if (problem := told_by(job, rank)) is not None
    ]
    # When a loss is not finite all ranks report an error, but just one knows the rows.
    problems.sort(key=lambda problem: "rows of another rank" in problem.thing)
    if problems:
        return problems[0]
    order = [rank for rank, code in enumerate(codes) if code not in (None, entry.DONE)]
    order.sort(
        key=lambda rank: (codes[rank] in (entry.LOST_PEER, entry.STOPPED), (codes[rank] or 0) > 0)
    )
    rank = order[0]
    code = codes[rank] or 0
    if code == entry.STOPPED:
        return stopped(
            job, f"worker {rank} was asked to stop (SIGTERM, or the file {entry.stop_file(job)})"
        )
    if code == entry.LOST_PEER and None in codes:
        rank = codes.index(None)  # it still runs, but its peers have lost it
        ended = "no answer to its peers"
    else:
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    hint = (
        " (out of memory? try fewer workers.num_workers or a smaller train.batch_size)"
        if code == -signal.SIGKILL
        else ""
    )
    return Lost(
        f"worker {rank} of {len(codes)}",
        found=ended + hint,
        expected="to train to the end",
        remedy="look into " + last_lines(job, rank) + go_on(job),
    )


def stopped(job: TrainJob, by: str) -> WorkerError:
    return WorkerError(
        f"training {job.run_id}",
        found=by,
        expected="to go on to the end",
        remedy=go_on(job).lstrip("; "),
    )


def told_by(job: TrainJob, rank: int) -> RecsysError | None:
    path = entry.error_file(job, rank)
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    name = facts.pop("kind")
    kind = Lost if name == Lost.__name__ else getattr(errors, name, RecsysError)
    return kind(facts.pop("thing"), **facts)


def last_lines(job: TrainJob, rank: int, count: int = 5) -> str:
    path = entry.log_file(job, rank)
    lines = (
        path.read_text(encoding="utf-8", errors="replace").split("\n")[-count - 1 :]
        if path.exists()
        else []
    )
    return f"{path}, which ends: " + (
        " | ".join(line.strip() for line in lines if line.strip())[-600:] or "(empty)"
    )


def go_on(job: TrainJob) -> str:
    checkpoints = checkpoint.folders(Path(job.run_dir))
    return (
        f"; run again to go on from {checkpoints[-1].name}"
        if checkpoints
        else "; run again to start anew, no checkpoint was written yet"
    )

"""What every rank runs: `python -m recsys_spark.train.entry RUN_DIR/train_job.json`. It never imports pyspark, and starts no JVM.

The launcher tells a rank who it is by environment variables; a rank tells the launcher how it goes by files in the run folder:
`rank-N.beat` (signs of life), `rank-N.error.json` (why it gave up), metrics.jsonl and result.json (rank 0).
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import pyarrow
import torch

from recsys_spark.core import artifacts, log
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.train import workers
from recsys_spark.train.beat import Beat
from recsys_spark.train.loop import Loop
from recsys_spark.train.workers import PeerLost

PARENT = "RECSYS_SPARK_PARENT"  # process id of the launcher; without it the rank was started from outside
DONE, USER_ERROR, LOST_PEER, STOPPED = 0, 2, 70, 75  # exit codes; any other is a crash
_log = log.get("train.entry")


def run_rank(job_path: str) -> int:
    """Train as one rank of the job; the exit code."""
    _die_with_launcher()
    log.configure()
    faulthandler.enable()
    job = artifacts.read_model(Path(job_path), TrainJob, error=ConfigError, remedy="start ranks through the launcher")
    rank = int(os.environ.get(workers.RANK, os.environ.get("HOROVOD_RANK", "0")))
    beat = Beat(beat_file(job, rank))
    _use_threads(job)
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, ask)
    try:
        group = workers.connect(workers.resolve(job.workers.engine, job.workers.num_workers), device=job.workers.device,
                                timeout_s=job.workers.timeout_s, beat=beat)
        assert (group.rank, group.size) == (rank, job.workers.num_workers), f"rank {group.rank} of {group.size}, not {rank}"
        result = Loop(job, group, stop=lambda: bool(asked)).run()
        group.close()
    except RecsysError as problem:
        _log.error(log.fields(rank=rank, error=str(problem)))
        artifacts.write_text(error_file(job, rank), json.dumps(
            {"kind": type(problem).__name__, "thing": problem.thing, "found": _plain(problem.found), "expected": _plain(problem.expected),
             "remedy": problem.remedy}))
        return USER_ERROR
    except PeerLost as problem:
        _log.error(log.fields(rank=rank, lost_peer=str(problem)))
        return LOST_PEER
    if result is None:
        _log.info(log.fields(rank=rank, event="stopped"))
        return STOPPED
    return DONE


def beat_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.beat"


def error_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.error.json"


def log_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.log"


def threads(job: TrainJob) -> int:
    """CPU threads of a rank's arithmetic, unless the job says: its share of the cores less one, which its reader's threads need.

    With none left they take turns with OpenMP's threads, which wait for each other spinning: a step of mf_bias took 36 ms, not 5.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return job.workers.threads or max(1, cores // job.workers.num_workers - 1)


def _use_threads(job: TrainJob) -> None:
    torch.set_num_threads(threads(job))
    pyarrow.set_cpu_count(threads(job))
    # Adam's moments of rare items decay through the denormal numbers, which some processors handle a hundred times slower.
    torch.set_flush_denormal(True)


def _die_with_launcher() -> None:
    """A launcher that is killed takes its ranks along: no orphan goes on training. Linux only; elsewhere ranks may outlive it."""
    parent = os.environ.get(PARENT)
    if parent and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


if __name__ == "__main__":
    code = 1
    try:
        code = run_rank(sys.argv[1])
    finally:
        if code == 1:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not sys.exit: the libraries' exit handlers wait for peers that may be gone

"""The program of every rank: `python -m recsys_spark.train.entry RUN_DIR/train_job.json`. It
imports no pyspark and starts no JVM.

The launcher starts it, or an external program: `torchrun -m recsys_spark.train.entry ...`,
`horovodrun python -m recsys_spark.train.entry ...`. A rank reports through files in the run folder:
`rank-N.beat` (heartbeat), `rank-N.error.json` (why it gave up), metrics.jsonl and result.json (rank
0). SIGTERM, or (on any host) a file `stop` in the run folder, tells it to save and to end.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pyarrow
import torch

from recsys_spark.core import artifacts, log
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import owner, placement, watch, workers
from recsys_spark.train.ranks.beat import Beat
from recsys_spark.train.ranks.placement import Rank
from recsys_spark.train.ranks.workers import PeerLost

JOB = "train_job.json"  # job.json belongs to the step of the pipeline
# process id of the launcher; not set when another program started the rank
PARENT = "RECSYS_SPARK_PARENT"
DONE, USER_ERROR, LOST_PEER, STOPPED = 0, 2, 70, 75  # exit codes; any other is a crash
_log = log.get("train.entry")


def run_rank(job_path: str) -> int:
    """Train as one rank of the job. Returns the exit code. The environment says which rank it is
    (train/ranks/placement.py).
    """
    _die_with_launcher()
    log.configure()
    faulthandler.enable()
    job: TrainJob | None = None
    stop = _Asked()
    signal.signal(signal.SIGTERM, stop.hear)
    try:
        job = artifacts.read_model(
            Path(job_path),
            TrainJob,
            error=ConfigError,
            remedy="start ranks through the launcher, or make the "
            "file by `recsys-spark prepare-ranks`",
        )
        result = _train(job, placement.here(), stop)
    except RecsysError as problem:
        _log.error(log.fields(error=str(problem)))
        if job is not None:
            _tell(job, _rank(), problem)
        return USER_ERROR
    except PeerLost as problem:
        _log.error(log.fields(lost_peer=str(problem)))
        return LOST_PEER
    if result is None:
        _log.info(log.fields(event="stopped"))
        return STOPPED
    return DONE


def _train(job: TrainJob, rank: Rank, stop: _Asked) -> TrainResult | None:
    """Train as the given rank. Returns None when it was asked to stop; a checkpoint is then
    written.
    """
    error_file(job, rank.rank).unlink(missing_ok=True)
    beat = Beat(beat_file(job, rank.rank))
    job = placement.placed(job, rank)
    settings = job.workers
    _use_threads(job)
    with ExitStack() as stack:
        if rank.rank == 0:
            stop.file = stop_file(job)
            stack.enter_context(
                owner.alone(Path(job.run_dir), owner.RANK, wait_s=min(settings.timeout_s, 30.0))
            )
        if rank.by != placement.LAUNCHER and rank.size > 1:
            _watch(job, rank)
        gpu = placement.gpu(settings.device, rank.local_rank)
        if settings.device == "cuda":
            torch.cuda.set_device(gpu)
        group = workers.connect(
            settings.engine,
            local_rank=gpu,
            device=settings.device,
            timeout_s=settings.timeout_s,
            beat=beat,
        )
        assert group.rank == rank.rank and group.size == rank.size, (
            f"rank {group.rank} of {group.size}, not {rank.rank} of {rank.size}"
        )
        result = Loop(job, group, stop=stop).run()
        group.close()
        if rank.rank == 0:
            stop_file(job).unlink(missing_ok=True)  # done: the next start must resume
    return result


class _Asked:
    """Whether the rank was asked to save and to end: SIGTERM came, or rank 0 saw the stop file,
    which it checks once a second.
    """

    def __init__(self) -> None:
        self.asked, self.file, self.looked = False, Path(), 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        if not self.asked and self.file.name and time.monotonic() - self.looked >= 1.0:
            self.asked, self.looked = self.asked or self.file.exists(), time.monotonic()
        return self.asked


def _watch(job: TrainJob, this_rank: Rank) -> None:
    """Where no launcher watches the heartbeats, each rank does, in a background thread: when a rank
    hangs, the waiting ranks end with an error that names it.
    """
    silence = watch.Silence([beat_file(job, rank) for rank in range(this_rank.size)])

    def look() -> None:
        while True:
            time.sleep(min(1.0, job.workers.timeout_s / 4))
            silence.look()
            silent = silence.silent(job.workers.timeout_s)
            if silent is not None and silent[0] != this_rank.rank:
                hung = watch.lost(
                    silent[0],
                    this_rank.size,
                    silent[1],
                    job.workers.timeout_s,
                    f"look at rank {silent[0]}, then start again to go on from the last checkpoint",
                )
                _log.error(log.fields(error=str(hung)))
                _tell(job, this_rank.rank, hung)
                os._exit(LOST_PEER)

    threading.Thread(target=look, name="watch", daemon=True).start()


def _tell(job: TrainJob, rank: int, problem: RecsysError) -> None:
    artifacts.write_text(
        error_file(job, rank),
        json.dumps(
            {
                "kind": type(problem).__name__,
                "thing": problem.thing,
                "found": _plain(problem.found),
                "expected": _plain(problem.expected),
                "remedy": problem.remedy,
            }
        ),
    )


def _rank() -> int:
    """The number of this rank; 0 where the environment is invalid."""
    try:
        return placement.here().rank
    except ConfigError:
        return 0


def beat_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.beat"


def error_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.error.json"


def stop_file(job: TrainJob) -> Path:
    return Path(job.run_dir) / "stop"


def clear(job: TrainJob) -> None:
    """Remove the files of an earlier attempt before ranks start: heartbeats, errors, the stop
    file.
    """
    for rank in range(job.workers.num_workers):
        beat_file(job, rank).unlink(missing_ok=True)
        error_file(job, rank).unlink(missing_ok=True)
    stop_file(job).unlink(missing_ok=True)


def log_file(job: TrainJob, rank: int) -> Path:
    return Path(job.run_dir) / f"rank-{rank}.log"


def threads(job: TrainJob) -> int:
    """CPU threads of a rank's arithmetic, unless the job sets them: the rank's share of the cores
    minus one, which the reader's threads need.

    Without a free core they alternate with OpenMP's threads, which spin while they wait: a step of
    mf_bias took 36 ms instead of 5.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return job.workers.threads or max(1, cores // job.workers.num_workers - 1)


def _use_threads(job: TrainJob) -> None:
    torch.set_num_threads(threads(job))
    pyarrow.set_cpu_count(threads(job))
    # Adam's moments of rare items decay to denormal numbers, which some processors handle a hundred
    # times slower.
    torch.set_flush_denormal(True)


def _die_with_launcher() -> None:
    """End this rank when its launcher is killed, so that no orphan goes on training. Linux only; on
    other systems ranks may outlive the launcher.
    """
    parent = os.environ.get(PARENT)
    if parent and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != int(parent):  # the launcher died before prctl
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

"""What every rank runs: `python -m recsys_spark.train.entry RUN_DIR/train_job.json`. It never imports pyspark, and starts no JVM.

Started by the launcher, or from outside: `torchrun -m recsys_spark.train.entry ...`, `horovodrun python -m recsys_spark.train.entry ...`.
A rank tells how it goes by files in the run folder: `rank-N.beat` (signs of life), `rank-N.error.json` (why it gave up), metrics.jsonl and
result.json (rank 0). It is told to save and to end by SIGTERM, or, wherever it runs, by a file `stop` there.
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
from recsys_spark.train import owner, placement, watch, workers
from recsys_spark.train.beat import Beat
from recsys_spark.train.loop import Loop
from recsys_spark.train.placement import Rank
from recsys_spark.train.workers import PeerLost

JOB = "train_job.json"  # job.json is the step's own
PARENT = "RECSYS_SPARK_PARENT"  # process id of the launcher; without it the rank was started from outside
DONE, USER_ERROR, LOST_PEER, STOPPED = 0, 2, 70, 75  # exit codes; any other is a crash
_log = log.get("train.entry")


def run_rank(job_path: str) -> int:
    """Train as one rank of the job; the exit code. Who it is among the others, its environment says (train/placement.py)."""
    _die_with_launcher()
    log.configure()
    faulthandler.enable()
    job: TrainJob | None = None
    asked = _Asked()
    signal.signal(signal.SIGTERM, asked.hear)
    try:
        job = artifacts.read_model(Path(job_path), TrainJob, error=ConfigError, remedy="start ranks through the launcher, or make the "
                                   "file by `recsys-spark prepare-ranks`")
        result = _train(job, placement.here(), asked)
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


def _train(job: TrainJob, here: Rank, asked: _Asked) -> TrainResult | None:
    """As the rank that the environment names. None: asked to stop, a checkpoint is written."""
    error_file(job, here.rank).unlink(missing_ok=True)
    beat = Beat(beat_file(job, here.rank))
    job = placement.placed(job, here)
    settings = job.workers
    _use_threads(job)
    with ExitStack() as held:
        if here.rank == 0:
            asked.file = stop_file(job)
            held.enter_context(owner.alone(Path(job.run_dir), owner.RANK, wait_s=min(settings.timeout_s, 30.0)))
        if here.by != placement.LAUNCHER and here.size > 1:
            _watch(job, here)
        number = placement.gpu(settings.device, here.local_rank)
        if settings.device == "cuda":
            torch.cuda.set_device(number)
        group = workers.connect(settings.engine, local_rank=number, device=settings.device, timeout_s=settings.timeout_s, beat=beat)
        assert group.rank == here.rank and group.size == here.size, f"rank {group.rank} of {group.size}, not {here.rank} of {here.size}"
        result = Loop(job, group, stop=asked).run()
        group.close()
        if here.rank == 0:
            stop_file(job).unlink(missing_ok=True)  # obeyed: the next start goes on
    return result


class _Asked:
    """Whether to save and to end: SIGTERM came, or rank 0 saw the file, at which it looks once a second."""

    def __init__(self) -> None:
        self.asked, self.file, self.looked = False, Path(), 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        if not self.asked and self.file.name and time.monotonic() - self.looked >= 1.0:
            self.asked, self.looked = self.asked or self.file.exists(), time.monotonic()
        return self.asked


def _watch(job: TrainJob, here: Rank) -> None:
    """Where no launcher sees all ranks' signs of life, each rank does, in the background: a silent wait ends in the name of whom it
    waits for."""
    silence = watch.Silence([beat_file(job, rank) for rank in range(here.size)])

    def look() -> None:
        while True:
            time.sleep(min(1.0, job.workers.timeout_s / 4))
            silence.look()
            found = silence.silent(job.workers.timeout_s)
            if found is not None and found[0] != here.rank:
                hung = watch.lost(found[0], here.size, found[1], job.workers.timeout_s, f"look at rank {found[0]}, then start again to "
                                  "go on from the last checkpoint")
                _log.error(log.fields(error=str(hung)))
                _tell(job, here.rank, hung)
                os._exit(LOST_PEER)

    threading.Thread(target=look, name="watch", daemon=True).start()


def _tell(job: TrainJob, rank: int, problem: RecsysError) -> None:
    artifacts.write_text(error_file(job, rank), json.dumps(
        {"kind": type(problem).__name__, "thing": problem.thing, "found": _plain(problem.found), "expected": _plain(problem.expected),
         "remedy": problem.remedy}))


def _rank() -> int:
    """Even where the environment is refused."""
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
    """Before ranks start: what those of an earlier attempt told, or were told."""
    for rank in range(job.workers.num_workers):
        beat_file(job, rank).unlink(missing_ok=True)
        error_file(job, rank).unlink(missing_ok=True)
    stop_file(job).unlink(missing_ok=True)


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

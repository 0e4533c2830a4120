"""Ranks as child processes on this host: started, watched, stopped, and none of them left behind.

One rank is a child process too, so that a crash or a full memory never takes the driver along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import WorkerError
from recsys_spark.train import entry, progress, verdict, watch, workers
from recsys_spark.train.record import METRICS

GRACE_S = 30.0  # to save a checkpoint after SIGTERM, before SIGKILL
SETTLE_S = 1.0  # after a rank has died: others follow it, and the first cause must be told from them
_POLL_S = 0.1
# Each step frees tensors of the sizes that the next one asks for: C's allocator keeps them, in large pages where the system has them.
_ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=1073741824"

Ranks = list["subprocess.Popen[bytes]"]


def run(job: TrainJob, environments: list[dict[str, str]], enough: Callable[[], bool]) -> bool:
    """Start a rank with each of the environments and wait until all have ended well.

    False: `enough` became true, so they were asked to save and to stop. Raises what a rank raised; Lost when one died or hung.
    """
    with ExitStack() as stack:
        ranks: Ranks = []
        stack.callback(_end, ranks)
        asked = stack.enter_context(_sigterm())
        shown = stack.enter_context(progress.make(job.model, Path(job.run_dir) / METRICS))
        entry.clear(job)
        for rank, environment in enumerate(environments):
            ranks.append(_start(job, rank, len(environments), environment))
        try:
            return _watch(job, ranks, shown, asked, enough)
        except KeyboardInterrupt:
            _stop(ranks)
            raise


def _watch(job: TrainJob, ranks: Ranks, shown: progress.Lines, asked: list[int], enough: Callable[[], bool]) -> bool:
    silence = watch.Silence([entry.beat_file(job, rank) for rank in range(len(ranks))])
    while True:
        codes = [rank.poll() for rank in ranks]
        readings = silence.look()
        if all(code == entry.DONE for code in codes):
            return True
        if any(code not in (None, entry.DONE) for code in codes):
            _settle(ranks)
            problem = verdict.cause(job, [rank.poll() for rank in ranks])
            if isinstance(problem, watch.Lost):
                problem.step = silence.step
            raise problem
        if readings[0]:
            shown.show(readings[0])
        if (found := silence.silent(job.workers.timeout_s)) is not None:
            rank, seconds = found
            hung = watch.lost(rank, len(ranks), seconds, job.workers.timeout_s,
                              "look into " + verdict.last_lines(job, rank) + verdict.go_on(job))
            hung.step = silence.step
            raise hung
        if asked:
            _stop(ranks)
            raise verdict.stopped(job, "SIGTERM")
        if enough():
            _stop(ranks)
            return all(rank.poll() == entry.DONE for rank in ranks)
        time.sleep(_POLL_S)


def _start(job: TrainJob, rank: int, size: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A child in a process group of its own, whose output goes to its log."""
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    threads = str(entry.threads(job))
    known = {entry.PARENT: str(os.getpid()), workers.RANK: str(rank), workers.SIZE: str(size), "PYTHONPATH": path,
             "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
             "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", _ALLOCATOR)}
    command = [sys.executable, "-m", "recsys_spark.train.entry", str(Path(job.run_dir) / entry.JOB)]
    with open(entry.log_file(job, rank), "ab") as output:
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                    env={**os.environ, **known, **environment})
        except OSError as problem:
            raise WorkerError(f"worker {rank}", found=str(problem), expected="a new process",
                              remedy="free memory or processes, or set fewer workers.num_workers") from problem


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list that SIGTERM fills, where the process allows a handler (in its main thread)."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _settle(ranks: Ranks) -> None:
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until and any(rank.poll() is None for rank in ranks):
        time.sleep(_POLL_S / 4)


def _stop(ranks: Ranks) -> None:
    """Ask for a last checkpoint, and wait for it."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and all(rank.poll() in (None, entry.STOPPED, entry.DONE) for rank in ranks):
        if all(rank.poll() is not None for rank in ranks):
            return
        time.sleep(_POLL_S)


def _end(ranks: Ranks) -> None:
    """Nothing of this job runs on."""
    for rank in ranks:
        if rank.poll() is None:
            try:
                os.killpg(rank.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        rank.wait()

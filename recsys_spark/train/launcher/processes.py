"""Ranks as child processes on this host: started, watched and stopped; none outlives the job.

A single rank is a child process too, so that a crash or a lack of memory does not end the driver.
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
from recsys_spark.train import entry
from recsys_spark.train.launcher import progress, verdict
from recsys_spark.train.ranks import watch, workers
from recsys_spark.train.saves.record import METRICS

GRACE_S = 30.0  # to save a checkpoint after SIGTERM, before SIGKILL
SETTLE_S = (
    1.0  # wait after a rank has died: others follow it, and the first cause must be identified
)
_POLL_S = 0.1
# Each step frees tensors of the sizes that the next one allocates: C's allocator keeps the memory,
# in large pages where the system has them.
_GIB = 2**30
ALLOCATOR = (
    f"glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold={_GIB}:glibc.malloc.mmap_threshold={_GIB}"
)

Ranks = list["subprocess.Popen[bytes]"]


def run(job: TrainJob, environments: list[dict[str, str]], enough: Callable[[], bool]) -> bool:
    """Start a rank with each of the environments and wait until all have ended with success.

    Returns False when `enough` became true, so the ranks were told to save and to stop. Raises what
    a rank raised; Lost when one died or hung.
    """
    with ExitStack() as stack:
        ranks: Ranks = []
        stack.callback(_end, ranks)
        signals = stack.enter_context(_sigterm())
        lines = stack.enter_context(progress.make(job.model, Path(job.run_dir) / METRICS))
        entry.clear(job)
        for rank, environment in enumerate(environments):
            ranks.append(_start(job, rank, len(environments), environment))
        try:
            return _watch(job, ranks, lines, signals, enough)
        except KeyboardInterrupt:
            _stop(ranks)
            raise


def _watch(
    job: TrainJob,
    ranks: Ranks,
    lines: progress.Lines,
    signals: list[int],
    enough: Callable[[], bool],
) -> bool:
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
            lines.show(readings[0])
        if (silent := silence.silent(job.workers.timeout_s)) is not None:
            rank, seconds = silent
            hung = watch.lost(
                rank,
                len(ranks),
                seconds,
                job.workers.timeout_s,
                "look into " + verdict.last_lines(job, rank) + verdict.go_on(job),
            )
            hung.step = silence.step
            raise hung
        if signals:
            _stop(ranks)
            raise verdict.stopped(job, "SIGTERM")
        if enough():
            _stop(ranks)
            return all(rank.poll() == entry.DONE for rank in ranks)
        time.sleep(_POLL_S)


def _start(
    job: TrainJob, rank: int, size: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a rank in a process group of its own; its output goes to its log."""
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    threads = str(entry.threads(job))
    variables = {
        entry.PARENT: str(os.getpid()),
        workers.RANK: str(rank),
        workers.SIZE: str(size),
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ALLOCATOR),
    }
    command = [sys.executable, "-m", "recsys_spark.train.entry", str(Path(job.run_dir) / entry.JOB)]
    with open(entry.log_file(job, rank), "ab") as output:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **variables, **environment},
            )
        except OSError as problem:
            raise WorkerError(
                f"worker {rank}",
                found=str(problem),
                expected="a new process",
                remedy="free memory or processes, or set fewer workers.num_workers",
            ) from problem


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list to which SIGTERM appends, where the process can set a handler (in its main thread)."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def record(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = signal.signal(signal.SIGTERM, record)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, previous)


def _settle(ranks: Ranks) -> None:
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until and any(rank.poll() is None for rank in ranks):
        time.sleep(_POLL_S / 4)


def _stop(ranks: Ranks) -> None:
    """Ask the ranks for a last checkpoint, and wait for it."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and all(
        rank.poll() in (None, entry.STOPPED, entry.DONE) for rank in ranks
    ):
        if all(rank.poll() is not None for rank in ranks):
            return
        time.sleep(_POLL_S)


def _end(ranks: Ranks) -> None:
    """Kill the ranks that still run, with their process groups."""
    for rank in ranks:
        if rank.poll() is None:
            try:
                os.killpg(rank.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        rank.wait()

"""Locks of a run folder: one launcher and one rank 0 may write to it. A lock is released when its
process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_spark.core import locks
from recsys_spark.core.errors import WorkerError

LAUNCHER, RANK = ".train.lock", ".rank.lock"


@contextmanager
def alone(run: Path, name: str = LAUNCHER, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock. Raises WorkerError when another process still holds it after `wait_s`: a
    process killed elsewhere takes a moment to end. Some network file systems have no locks: there
    the log says so, and two launchers are not kept apart.
    """
    busy = WorkerError(
        f"run folder {run}",
        found="another process that trains into it",
        expected="one at a time",
        remedy="wait for it, or end it",
    )
    with locks.alone(run / name, busy=busy, wait_s=wait_s):
        yield

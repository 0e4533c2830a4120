"""Who may write to a run folder: one launcher, and one rank 0. A lock goes with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_spark.core import log
from recsys_spark.core.errors import WorkerError

LAUNCHER, RANK = ".train.lock", ".rank.lock"
_log = log.get("train.owner")


@contextmanager
def alone(run: Path, name: str = LAUNCHER, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock. Raises WorkerError when another process still holds it after `wait_s`: one that was killed elsewhere takes a
    moment to go. Some network file systems have no locks; there the log says so, and nothing stands between two launchers."""
    until = time.monotonic() + wait_s
    with open(run / name, "w", encoding="utf-8") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise WorkerError(f"run folder {run}", found="another process that trains into it", expected="one at a time",
                                      remedy="wait for it, or end it") from None
                time.sleep(0.1)
            except OSError as problem:
                _log.warning(log.fields(event="no_lock", run_dir=run, problem=problem))
                break
        yield

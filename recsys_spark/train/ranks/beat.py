"""A rank's heartbeat: a few numbers in a memory-mapped file that the launcher reads. Writing them
costs a microsecond.

A hung rank stops all others in their next collective, so silence alone does not identify it:
`WAITING` marks the ranks that only wait.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORKING, WAITING = 0, 1
ACTIVITIES = ("training", "validating", "saving")


class Reading(NamedTuple):
    time_ns: int  # machine's monotonic clock: comparable between processes
    phase: int
    epoch: int
    epochs: int  # of the whole training, maximum
    position: int  # steps done in the epoch
    steps: int  # of an epoch
    step: int  # since the start of training
    examples: int  # rows trained on by all ranks since this process started
    activity: int = 0  # what the steps wait for, an index into ACTIVITIES

    @property
    def age_s(self) -> float:
        return (time.monotonic_ns() - self.time_ns) / 1e9


class Beat:
    """The heartbeat of one rank; `path` None keeps it in memory (a loop without a launcher)."""

    def __init__(self, path: Path | None = None) -> None:
        size = len(Reading._fields)
        self._cells = (
            np.zeros(size, np.int64)
            if path is None
            else np.memmap(path, np.int64, "w+", shape=(size,))
        )
        self.work()

    def work(self) -> None:
        self._cells[:2] = time.monotonic_ns(), WORKING

    def wait(self) -> None:
        self._cells[:2] = time.monotonic_ns(), WAITING

    def say(self, activity: str) -> None:
        """Record what the rank does between two steps, one of ACTIVITIES."""
        self._cells[-1] = ACTIVITIES.index(activity)
        self.work()

    def tell(
        self, epoch: int, epochs: int, position: int, steps: int, step: int, examples: int
    ) -> None:
        self._cells[:] = (
            time.monotonic_ns(),
            WORKING,
            epoch,
            epochs,
            position,
            steps,
            step,
            examples,
            0,
        )


def read(path: Path) -> Reading | None:
    """The last heartbeat of the rank; None before the first."""
    try:
        cells = np.fromfile(path, np.int64)
    except FileNotFoundError:
        return None
    return Reading(*cells.tolist()) if len(cells) == len(Reading._fields) and cells[0] else None

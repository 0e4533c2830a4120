"""Which rank is silent: by how long ago its sign of life changed, on the clock of whoever watches, so that hosts need not agree on one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from recsys_spark.core.errors import WorkerError
from recsys_spark.train import beat
from recsys_spark.train.beat import Reading


class Lost(WorkerError):
    """A worker died or hung: nobody's mistake, so to go on from the last checkpoint may help."""

    step = 0  # the last that was done; 0: none since the ranks were started


class Silence:
    """`paths` are the signs of life of all ranks, in their order."""

    def __init__(self, paths: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self.paths, self.clock = paths, clock
        self.readings: list[Reading | None] = [None] * len(paths)
        self.since = [clock()] * len(paths)

    def look(self) -> list[Reading | None]:
        for rank, path in enumerate(self.paths):
            reading = beat.read(path)
            if reading != self.readings[rank]:
                self.readings[rank], self.since[rank] = reading, self.clock()
        return self.readings

    def silent(self, timeout_s: float) -> tuple[int, float] | None:
        """(rank, seconds) of whom to blame when all have been silent for longer; None as long as one is not.

        A rank that hangs stops the others in their next collective, so whoever only waits there is the last to be suspected.
        """
        ages = [self.clock() - since for since in self.since]
        if min(ages) <= timeout_s:
            return None
        working = [rank for rank, reading in enumerate(self.readings) if reading is None or reading.phase == beat.WORKING]
        rank = max(working or range(len(ages)), key=lambda r: ages[r])
        return rank, ages[rank]

    @property
    def step(self) -> int:
        """The last step that any rank has done since it was started."""
        return max(reading.step if reading else 0 for reading in self.readings)


def lost(rank: int, size: int, seconds: float, timeout_s: float, remedy: str) -> Lost:
    return Lost(f"worker {rank} of {size}", found=f"silent for {seconds:.0f} s",
                expected=f"a sign of life within workers.timeout_s={timeout_s:g}", remedy=remedy)

"""Finds the silent rank, by the time since its heartbeat last changed on the clock of the watching
process, so that the clocks of hosts need not agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from recsys_spark.core.errors import WorkerError
from recsys_spark.train.ranks import beat
from recsys_spark.train.ranks.beat import Reading


class Lost(WorkerError):
    """A worker died or hung. No setting is at fault, so resuming from the last checkpoint may
    help.
    """

    step = 0  # the last step done; 0: none since the ranks were started


class Silence:
    """Watches the heartbeats of all ranks; `paths` are their files, in rank order."""

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
        """(rank, seconds) of the rank to blame when all ranks have been silent for longer than
        `timeout_s`; None while any rank is not.

        A rank that hangs stops the others in their next collective, so ranks that wait there are
        blamed last.
        """
        ages = [self.clock() - since for since in self.since]
        if min(ages) <= timeout_s:
            return None
        working = [
            rank
            for rank, reading in enumerate(self.readings)
            if reading is None or reading.phase == beat.WORKING
        ]
        rank = max(working or range(len(ages)), key=lambda r: ages[r])
        return rank, ages[rank]

    @property
    def step(self) -> int:
        """The last step that any rank has done since the ranks were started."""
        return max(reading.step if reading else 0 for reading in self.readings)


def lost(rank: int, size: int, seconds: float, timeout_s: float, remedy: str) -> Lost:
    return Lost(
        f"worker {rank} of {size}",
        found=f"silent for {seconds:.0f} s",
        expected=f"a sign of life within workers.timeout_s={timeout_s:g}",
        remedy=remedy,
    )

"""The living ranks of a job, as the tests that kill them see them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys_spark.core.contracts import TrainJob
from recsys_spark.train import entry
from recsys_spark.train.ranks import beat, workers


def processes(job: TrainJob) -> dict[int, int]:
    """rank -> process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode().split("\0")
            if (
                str(Path(job.run_dir) / entry.JOB) in arguments
                and "recsys_spark.train.entry" in arguments
            ):
                environment = dict(
                    line.split("=", 1)
                    for line in (folder / "environ").read_text().split("\0")
                    if "=" in line
                )
                found[int(environment[workers.RANK])] = int(folder.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError, KeyError):
            continue
    return found


def steps(job: TrainJob, rank: int = 0) -> int:
    """Done since the start of the training; 0 until a rank that was started anew has done one."""
    reading = beat.read(entry.beat_file(job, rank))
    return reading.step if reading else 0


def wait(what: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Its first true value, patiently: on a busy machine two ranks may need minutes to start."""
    until = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s"
        time.sleep(0.02)
    return value

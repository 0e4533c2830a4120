"""What of a pipeline is done, what runs, what failed and why, and what waits: from the table `runs`
and the locks of run folders, without a JVM.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys_spark.core import locks
from recsys_spark.core.contracts import Run
from recsys_spark.lake.direct import Reader
from recsys_spark.pipeline import keys, runner
from recsys_spark.pipeline.steps import Pipeline, Step, missing

State = Literal["done", "running", "failed", "waits", "ready"]


@dataclass(frozen=True)
class Status:
    """Of one step. state: `done`, what `run` would keep; `running`, in this moment, by a process of
    this machine (or of another that shares the folder of runs and its locks); `failed`, its last
    attempt, and not made good since; `waits`, for steps that are not done; `ready`, to run.
    """

    step: str
    stage: str
    state: State
    run_id: str = ""  # of the run that is done, runs or failed
    ended_at: float | None = None  # seconds since 1970; None: it has not
    seconds: float | None = None  # that it took, or has run so far
    why: str = ""  # it failed, or what it waits for


def of(pipeline: Pipeline, steps: Sequence[Step], lake: Reader) -> list[Status]:
    """The steps of the pipeline, in their order."""
    kept = runner.kept(pipeline, list(steps), lake=lake)
    last = {run.step: run for run in lake.attempts() if run.pipeline == pipeline.name}
    return [_of(pipeline, step, kept, last.get(step.name)) for step in steps]


def summary(statuses: Sequence[Status]) -> str:
    """How many steps are in each state.

    >>> summary([Status("a", "ingest", "done"), Status("b", "prepare", "ready")])
    '1 done, 1 ready'
    """
    counts = Counter(status.state for status in statuses)
    order: tuple[State, ...] = ("done", "running", "failed", "ready", "waits")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def _of(pipeline: Pipeline, step: Step, kept: dict[str, Run], last: Run | None) -> Status:
    stage = step.job.stage
    if (run := kept.get(step.name)) is not None:
        took = run.ended_at - run.started_at
        return Status(step.name, stage, "done", run.run_id, run.ended_at, took)
    waits = [name for name in step.needs if name not in kept]
    if not waits and not missing(step):
        run_id = keys.run_id_of(step.name, keys.step_key(step, pipeline, kept))
        lock = Path(pipeline.env.runs) / run_id / runner.LOCK
        if locks.is_held(lock):
            # Whoever took it wrote it anew
            return Status(
                step.name, stage, "running", run_id, seconds=time.time() - lock.stat().st_mtime
            )
    if last is not None and last.state == "failed":
        took = last.ended_at - last.started_at
        return Status(step.name, stage, "failed", last.run_id, last.ended_at, took, last.problem)
    if waits:
        return Status(step.name, stage, "waits", why=", ".join(waits))
    return Status(step.name, stage, "ready", why=missing(step))

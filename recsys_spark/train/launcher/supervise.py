"""Resume from the last checkpoint after a worker was lost: a bounded number of times, on fewer
ranks if the job allows it.

An error that a rank reports itself (a setting, the shards, a loss that is not finite, a full disk)
would only occur again, so it is never retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from recsys_spark.core import log
from recsys_spark.core.contracts import TrainJob
from recsys_spark.train.data import places
from recsys_spark.train.ranks import placement
from recsys_spark.train.ranks.watch import Lost
from recsys_spark.train.saves import checkpoint

LONGEST_PAUSE_S = 60.0
# losses in a row at one step; two may be chance, mainly before the first step, which takes seconds
SAME_STEP = 3
_log = log.get("train.supervise")

# (the job on some number of ranks, a function: whether to stop it now) -> whether it is trained;
# raises Lost, or an error that a retry does not cure
Attempt = Callable[[TrainJob, Callable[[], bool]], bool]


def supervise(job: TrainJob, attempt: Attempt) -> None:
    """Attempt until the job is trained. Raises what an attempt raised when no retry is left:
    `restarts` are used up, or the training was lost at the same step SAME_STEP times in a row.
    """
    settings = job.workers
    number, lost_at = settings.num_workers, list[int]()
    while True:
        resized = job.model_copy(
            update={"workers": settings.model_copy(update={"num_workers": number})}
        )
        try:
            if attempt(resized, _newer(job) if number < settings.num_workers else lambda: False):
                return
            # A checkpoint was written on fewer ranks: back to all of them
            number = settings.num_workers
            _log.info(log.fields(event="grow", num_workers=number))
        except Lost as problem:
            restarts = len(lost_at)
            if restarts == settings.restarts:
                raise _more(problem, f"after {restarts} restarts" if restarts else "") from None
            lost_at.append(problem.step)
            if lost_at[-SAME_STEP:] == [problem.step] * SAME_STEP:
                moment = f"after step {problem.step}" if problem.step else "before the first step"
                raise _more(problem, f"{moment}, {SAME_STEP} times in a row: given up") from None
            pause = min(settings.backoff_s * 2**restarts, LONGEST_PAUSE_S)
            number = _left(job, number)
            _log.warning(
                log.fields(
                    event="restart",
                    restart=f"{restarts + 1}/{settings.restarts}",
                    lost=problem.thing,
                    found=problem.found,
                    step=problem.step,
                    num_workers=number,
                    pause_s=pause,
                )
            )
            time.sleep(pause)


def _left(job: TrainJob, number: int) -> int:
    """The number of ranks to go on with after one of `number` is lost: the largest smaller number
    that divides the virtual shards and is at least min_workers; else `number`. Without min_workers,
    the job's num_workers.
    """
    settings = job.workers
    if not settings.min_workers:
        return settings.num_workers
    shards = places.load(job.shards, expect=job.shard_fingerprint)
    fitting = [
        n for n in placement.divisors(shards.virtual_shards) if settings.min_workers <= n < number
    ]
    return fitting[-1] if fitting else number


def _newer(job: TrainJob) -> Callable[[], bool]:
    """A function that tells whether a checkpoint was written since this call."""
    newest = checkpoint.folders(Path(job.run_dir))[-1:]
    return lambda: checkpoint.folders(Path(job.run_dir))[-1:] != newest


def _more(problem: Lost, detail: str) -> Lost:
    if not detail:
        return problem
    error = Lost(
        problem.thing,
        found=f"{problem.found}, {detail}",
        expected=problem.expected,
        remedy=problem.remedy,
    )
    error.step = problem.step
    return error

"""Go on after a worker was lost: from the last checkpoint, a bounded number of times, on fewer ranks if the job allows it.

A rank's own error (a setting, the shards, a loss that is not a number, a full disk) would only come again: it is never retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from recsys_spark.core import log
from recsys_spark.core.contracts import TrainJob
from recsys_spark.train import checkpoint, placement, places
from recsys_spark.train.watch import Lost

LONGEST_PAUSE_S = 60.0
SAME_STEP = 3  # losses in a row; two may be chance, above all before the first step, which takes seconds to reach
_log = log.get("train.supervise")

# (the job on some number of ranks, whether to stop it now) -> whether it is trained; raises Lost, or an error that stays
Attempt = Callable[[TrainJob, Callable[[], bool]], bool]


def supervise(job: TrainJob, attempt: Attempt) -> None:
    """Until the job is trained. Raises what an attempt raised once nothing is left to try: `restarts` are used up, or the training
    was lost at the same step SAME_STEP times in a row."""
    settings = job.workers
    number, lost_at = settings.num_workers, list[int]()
    while True:
        made = job.model_copy(update={"workers": settings.model_copy(update={"num_workers": number})})
        try:
            if attempt(made, _newer(job) if number < settings.num_workers else lambda: False):
                return
            number = settings.num_workers  # a checkpoint has come on fewer ranks: back to all of them
            _log.info(log.fields(event="grow", num_workers=number))
        except Lost as problem:
            restarts = len(lost_at)
            if restarts == settings.restarts:
                raise _more(problem, f"after {restarts} restarts" if restarts else "") from None
            lost_at.append(problem.step)
            if lost_at[-SAME_STEP:] == [problem.step] * SAME_STEP:
                where = f"after step {problem.step}" if problem.step else "before the first step"
                raise _more(problem, f"{where}, {SAME_STEP} times in a row: given up") from None
            pause = min(settings.backoff_s * 2 ** restarts, LONGEST_PAUSE_S)
            number = _left(job, number)
            _log.warning(log.fields(event="restart", restart=f"{restarts + 1}/{settings.restarts}", lost=problem.thing, found=problem.found,
                                    step=problem.step, num_workers=number, pause_s=pause))
            time.sleep(pause)


def _left(job: TrainJob, number: int) -> int:
    """How many ranks to go on with when one of so many is lost: the most below that share the virtual shards evenly, but not fewer
    than min_workers; all of them where the job does not allow fewer."""
    settings = job.workers
    if not settings.min_workers or checkpoint.carries(Path(job.run_dir)):
        return settings.num_workers
    shards = places.load(job.shards, expect=job.shard_fingerprint)
    fitting = [n for n in placement.divisors(shards.virtual_shards) if settings.min_workers <= n < number]
    return fitting[-1] if fitting else number


def _newer(job: TrainJob) -> Callable[[], bool]:
    """Whether a checkpoint has come since now."""
    before = checkpoint.folders(Path(job.run_dir))[-1:]
    return lambda: checkpoint.folders(Path(job.run_dir))[-1:] != before


def _more(problem: Lost, said: str) -> Lost:
    if not said:
        return problem
    made = Lost(problem.thing, found=f"{problem.found}, {said}", expected=problem.expected, remedy=problem.remedy)
    made.step = problem.step
    return made

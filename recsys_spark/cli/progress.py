"""How far a running step is: a changing line on a terminal, else a log line now and then."""

from __future__ import annotations

import atexit
import threading
import time

from rich.console import Console
from rich.status import Status

from recsys_spark.core import log

REFRESH_S = 0.5
LINE_S = 60.0  # between two lines of a log
OWN_PROGRESS = ("train_deep",)  # stages that show their own


class Running:
    """Shows one step from `start` to `stop`, from a thread of its own."""

    def __init__(self, console: Console) -> None:
        self.console, self.logger = console, log.get("cli")
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        atexit.register(self.stop)  # after Ctrl-C too: the line hides the cursor while it is shown

    def start(self, step: str, stage: str, earlier_s: float | None) -> None:
        """earlier_s: seconds that the step took when it last ran, where it did."""
        self.stop()
        if stage in OWN_PROGRESS:
            return
        self.over = threading.Event()
        show = self._show if self.console.is_terminal else self._log
        self.thread = threading.Thread(
            target=show, args=(step, earlier_s, time.monotonic(), self.over), daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _show(
        self, step: str, earlier_s: float | None, began: float, over: threading.Event
    ) -> None:
        with Status(f"{step}", console=self.console) as status:
            while not over.wait(REFRESH_S):
                status.update(sentence(step, time.monotonic() - began, earlier_s, tasks()))

    def _log(self, step: str, earlier_s: float | None, began: float, over: threading.Event) -> None:
        while not over.wait(LINE_S):
            facts = {"running_s": round(time.monotonic() - began)}
            if (counts := tasks()) is not None:
                facts |= {"tasks_done": counts[0], "tasks": counts[1]}
            if earlier_s is not None:
                facts |= {"last_time_s": round(earlier_s)}
            self.logger.info(log.fields(step=step, **facts))


def sentence(
    step: str, seconds: float, earlier_s: float | None, counts: tuple[int, int] | None
) -> str:
    """
    >>> sentence("als", 12.3, 40.0, (3, 8))
    'als  12 s, 3 of 8 tasks of this Spark job, about 28 s left'
    >>> sentence("als", 12.3, 10.0, None)
    'als  12 s, 10 s when it last ran'
    """
    parts = [f"{seconds:.0f} s"]
    if counts is not None:
        parts.append(f"{counts[0]} of {counts[1]} tasks of this Spark job")
    if earlier_s is not None:
        left = earlier_s - seconds
        parts.append(
            f"about {left:.0f} s left" if left > 0 else f"{earlier_s:.0f} s when it last ran"
        )
    return f"{step}  {', '.join(parts)}"


def tasks() -> tuple[int, int] | None:
    """(completed, all) tasks of the Spark stages that run now; None when none does."""
    from py4j.protocol import Py4JError  # a third of the start of a command that needs no Spark
    from pyspark import SparkContext

    context = SparkContext._active_spark_context
    if context is None:
        return None
    try:
        tracker = context.statusTracker()
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    except (Py4JError, OSError):  # the session ends, or is of another kind
        return None
    known = [stage for stage in stages if stage is not None]
    if not known:
        return None
    return sum(stage.numCompletedTasks for stage in known), sum(stage.numTasks for stage in known)

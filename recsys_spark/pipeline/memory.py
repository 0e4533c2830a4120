"""How much memory a step took: this process, its JVM and its workers, together."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

EVERY_S = 1.0


class Peak:
    """Looks at the memory about once a second while the block runs.

    bytes: the largest sum of resident memory of this process and all below it, shared pages counted
    in each of them; 0 where the system does not say. On a cluster the executors are not in it. What
    rises and falls between two looks is missed.

    >>> with Peak() as peak:
    ...     pass
    >>> peak.bytes > 1e6
    True
    """

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._ended = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            here = psutil.Process()
            family = [here, *here.children(recursive=True)]
        except psutil.Error:
            return
        self.bytes = max(self.bytes, sum(map(_resident, family)))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0

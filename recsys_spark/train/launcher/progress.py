"""Progress of the training that the launcher shows: a live bar on a terminal, otherwise `key=value`
lines.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from recsys_spark.core import log
from recsys_spark.train.ranks.beat import ACTIVITIES, Reading

_log = log.get("train")
LINE_S = 10.0  # between two `key=value` lines inside an epoch


class Lines:
    """One line per epoch, with the numbers of metrics.jsonl, and one every LINE_S seconds."""

    def __init__(self, name: str, metrics: Path) -> None:
        self.name, self.metrics = name, metrics
        self.shown = -1  # last epoch whose line was written
        self.rate = Rate()
        self.next_line = time.monotonic() + LINE_S

    def __enter__(self) -> Lines:
        self.shown = max((record["epoch"] for record in self._records()), default=-1)
        return self

    def __exit__(self, *problem: object) -> None:
        self._new_epochs()

    def show(self, reading: Reading) -> None:
        self.rate.add(reading)
        self._new_epochs()
        if reading.steps and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_S
            self.tick(reading)

    def tick(self, reading: Reading) -> None:
        _log.info(
            log.fields(
                model=self.name,
                epoch=reading.epoch,
                step=f"{reading.position}/{reading.steps}",
                **self._pace(reading),
            )
        )

    def _pace(self, reading: Reading) -> dict[str, Any]:
        """Examples per second and seconds left; between two epochs the rank's activity instead."""
        if reading.activity:
            return {"now": ACTIVITIES[reading.activity]}
        return {
            "examples_per_s": round(self.rate.examples_per_s),
            "left_s": round(self.left_s(reading)),
        }

    def epoch(self, record: dict[str, Any]) -> None:
        _log.info(log.fields(model=self.name, **record))

    def left_s(self, reading: Reading) -> float:
        """Upper bound of the seconds left: early stopping may end the training sooner."""
        steps = (reading.epochs - reading.epoch) * reading.steps - reading.position
        return steps / self.rate.steps_per_s if self.rate.steps_per_s else 0.0

    def _new_epochs(self) -> None:
        for record in self._records():
            if record["epoch"] > self.shown:
                self.shown = record["epoch"]
                self.epoch(record)

    def _records(self) -> list[dict[str, Any]]:
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]


class Bar(Lines):
    """rich's bar: model, epoch, steps, examples/s, time left, last metrics."""

    def __enter__(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__enter__()
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=False)
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=None, text="starting")
        self.last = ""
        return self

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)
        self.bar.stop()

    def show(self, reading: Reading) -> None:
        super().show(reading)
        if reading.steps:
            seconds_left = int(self.left_s(reading))
            text = (
                f"epoch {min(reading.epoch + 1, reading.epochs)}/{reading.epochs}  "
                f"{self.rate.examples_per_s:,.0f} examples/s  "
                f"at most {seconds_left // 60}:{seconds_left % 60:02d} left  {self.last}"
            )
            if reading.activity:
                text = f"epoch {reading.epoch + 1}/{reading.epochs}  {ACTIVITIES[reading.activity]}"
            done = reading.epoch * reading.steps + reading.position
            self.bar.update(
                self.task, total=reading.epochs * reading.steps, completed=done, text=text
            )

    def tick(self, reading: Reading) -> None:
        """Nothing to do: `show` updates the bar."""

    def epoch(self, record: dict[str, Any]) -> None:
        skipped = ("epoch", "phase", "step", "seconds", "examples_per_s", "lr")
        values = [f"{key} {value:.4f}" for key, value in record.items() if key not in skipped]
        self.last = "  ".join([*([record["phase"]] if "phase" in record else []), *values])[:60]


class Rate:
    """Steps and examples per second over about the last `WINDOW_S` seconds."""

    WINDOW_S = 5.0

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []
        self.steps_per_s = self.examples_per_s = 0.0

    def add(self, reading: Reading) -> None:
        sample = (reading.time_ns / 1e9, reading.step, reading.examples)
        if self.seen and sample[1] == self.seen[-1][1]:
            return
        self.seen.append(sample)
        while len(self.seen) > 2 and sample[0] - self.seen[1][0] >= self.WINDOW_S:
            self.seen.pop(0)
        seconds = sample[0] - self.seen[0][0]
        if seconds > 0:
            self.steps_per_s = (sample[1] - self.seen[0][1]) / seconds
            self.examples_per_s = (sample[2] - self.seen[0][2]) / seconds


def make(name: str, metrics: Path) -> Lines:
    return (Bar if sys.stderr.isatty() else Lines)(name, metrics)

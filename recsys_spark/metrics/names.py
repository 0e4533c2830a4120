"""The metrics of each task, and checks of the metrics that a user chooses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.metrics.tasks import TASKS

EVERY = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.metrics))
ITEM_FIELDS = ("diversity",)  # metrics that need the items' fields


def unknown(names: Iterable[str]) -> str:
    """A message on unknown names among the chosen metrics, or an empty string."""
    wrong = [name for name in names if name not in EVERY]
    return (
        f"no metric {wrong[0]!r}{nearest(wrong[0], EVERY)}; there are {', '.join(EVERY)}"
        if wrong
        else ""
    )


def of_task(task: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """The chosen metrics that the task has; all if none were chosen. Raises ConfigError when the
    task has none of them.
    """
    metrics = tuple(name for name in TASKS[task].metrics if not chosen or name in chosen)
    if not metrics:
        raise ConfigError(
            "metrics",
            found=", ".join(chosen),
            expected=f"at least one that {task} has: {', '.join(TASKS[task].metrics)}",
            remedy="choose one of them, or leave `metrics` out for all",
        )
    return metrics

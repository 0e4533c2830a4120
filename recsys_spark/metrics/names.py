"""Which metrics each task has, and the choice of a user among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.metrics import candidates, ctr, exposure, lists, ranking, rating

RANKING, RATING, CLICK = "ranking", "rating", "click"
SAMPLED = "sampled_ranking"  # among drawn candidates: never shown without that word, nor without the full ranking where there is one
NEW_ITEMS = "new_item_ranking"  # among the items that training does not know, all of them
OF_TASK = {
    RANKING: (*ranking.METRICS, *lists.METRICS, *exposure.METRICS),
    SAMPLED: candidates.METRICS,
    NEW_ITEMS: candidates.METRICS,
    RATING: rating.METRICS,
    CLICK: ctr.METRICS,
}
LOWER_IS_BETTER = (*rating.METRICS, "log_loss")
EVERY = tuple(dict.fromkeys(name for names in OF_TASK.values() for name in names))
ITEM_FIELDS = ("diversity",)  # metrics that need the items' fields


def unknown(names: Iterable[str]) -> str:
    """What is wrong with chosen names, or an empty string."""
    wrong = [name for name in names if name not in EVERY]
    return f"no metric {wrong[0]!r}{nearest(wrong[0], EVERY)}; there are {', '.join(EVERY)}" if wrong else ""


def of_task(task: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """The chosen metrics that the task has; all where none was chosen. Raises ConfigError when it has none of them."""
    found = tuple(name for name in OF_TASK[task] if not chosen or name in chosen)
    if not found:
        raise ConfigError("metrics", found=", ".join(chosen), expected=f"at least one that {task} has: {', '.join(OF_TASK[task])}",
                          remedy="choose one of them, or leave `metrics` out for all")
    return found

"""What a validation is, and when an epoch was better than the best before it."""

from __future__ import annotations

from collections.abc import Callable

from recsys_spark.core.contracts import TrainJob
from recsys_spark.metrics.glossary import LOWER_IS_BETTER
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.models.base import Model

CELLS = 8 << 20  # scores held at once: 32 MB in float32
Validator = Callable[[Model], dict[str, float]]


def monitor(job: TrainJob, model: type[Model] | Model) -> tuple[str, float]:
    """(metric, sign): the larger sign * value, the better. Raises ConfigError for a metric that
    this model does not have.
    """
    metric = TASKS[model.task_of(job.config)].monitor(job.train.monitor, "train.monitor")
    return metric, -1.0 if metric in LOWER_IS_BETTER else 1.0


def nothing(model: Model) -> dict[str, float]:
    """Of a training whose epochs are known before."""
    return {}


def improved(value: float, best: float | None, sign: float) -> bool:
    """Beyond rounding: sums over another number of ranks may differ in the last bits, and must not
    choose another epoch.
    """
    return best is None or sign * (float(value) - best) > 1e-9 * max(1.0, abs(best))

"""Whether a model may take the place of the one whose lists are current: by the paired difference
of the two, in an evaluation that measured both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, QualityError
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics import paired
from recsys_spark.metrics.glossary import LOWER_IS_BETTER
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.metrics.paired import Difference
from recsys_spark.metrics.slices import ALL

Must = Literal["not_be_worse", "be_better"]
EXPECTED: dict[Must, str] = {
    "not_be_worse": "an interval that reaches 0 or lies on the better side",
    "be_better": "an interval on the better side of 0",
}


def of_current(lake: Lake, name: str) -> Run | None:
    """The publish run whose lists are current; None before the first, or where it is not known."""
    if not lake.exists(c.CURRENT):
        return None
    row = lake.read(c.CURRENT).where(F.col(c.NAME) == name).select(c.RUN_ID).first()
    published = [
        run
        for run in lake.runs()
        if row is not None and run.stage == "publish" and run.summary["of_run_id"] == row[0]
    ]
    return max(published, key=lambda run: run.ended_at, default=None)


def require(
    current: Run | None, experiment: str, evaluated: Run, metric: str, must: Must, name: str
) -> dict[str, Any]:
    """What was compared, for the summary. experiment: the score step of the new model; metric: such
    as ndcg@10.

    Raises QualityError where the difference is not what it must be; ConfigError where the
    evaluation lacks the metric or the step whose lists are current.
    """
    before = current.config.get("experiment") if current else None
    if current is None or before == experiment:
        return {}
    ids = evaluated.upstream
    if before not in ids:
        raise ConfigError(
            f"lists {name!r}",
            found=f"those of {before or current.step}, which {evaluated.step} does not measure",
            expected=f"an evaluation that measured them and {experiment}",
            remedy=f"add that step to `of` of {evaluated.step}, or leave out `gate`",
        )
    replicas = paired.read(Path(evaluated.run_dir) / paired.FILE, slice=ALL, metric=metric)
    drawn = {key.of_run_id: values for key, values in replicas.items()}
    if not {ids[experiment], ids[before]} <= set(drawn):
        raise ConfigError(
            "gate, metric", found=metric, expected=f"a metric of {evaluated.step} of both models"
        )
    new, old = drawn[ids[experiment]], drawn[ids[before]]
    difference = verdict(new, old, metric, must, f"{experiment} against {before}, lists {name!r}")
    return {"against": before, "metric": metric, "difference": round(difference.value, 6)}


def verdict(new: Replicates, old: Replicates, metric: str, must: Must, thing: str) -> Difference:
    """The difference, new less old. Raises QualityError where it is not what it must be."""
    difference = paired.difference(new, old)[metric]
    low, high = difference.low, difference.high
    if metric.partition("@")[0] in LOWER_IS_BETTER:
        low, high = -high, -low
    if not (high >= 0 if must == "not_be_worse" else low > 0):
        raise QualityError(
            thing,
            found=f"{metric} {difference.value:+.4f} ({difference.low:.4f} to "
            f"{difference.high:.4f})",
            expected=f"{EXPECTED[must]}; the lists before it stay current",
            remedy="choose another model, or leave out `gate`",
        )
    return difference

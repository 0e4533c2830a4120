"""A linear re-ranker of lists that were shown: the chance of an item to be chosen among those of
its list is in proportion to exp(weights . features), fitted by maximum likelihood.

Paper: Daniel McFadden. Conditional logit analysis of qualitative choice behavior. In: Frontiers in
    Econometrics, Academic Press 1974. Features: etl/shown_features.py, those of the organisers'
    logistic regression in the RecSys Challenge 2019 (P. Knees et al., doi:10.1145/3298689.3346974).
Differs: the organisers fit a logistic regression over all items, as if each were chosen by itself.

For: re-ranking lists that were shown, by a few readable weights.
Needs: the lists that were shown (`impressions`) and what was chosen of them.
Cold: works on any list: it knows an item by what its list says of it, not by number.
Memory: a number for each feature.
Not for: full rankings.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
READS_LISTS = ("shown_place", "shown_price", "shown_met", "shown_last")
TOLERANCE = 1e-7  # of the log likelihood of a list
Floats = NDArray[np.float64]


class Config(Settings):
    reg: float = Field(1.0, gt=0)  # weight of the squared weights against one list's log likelihood
    iterations: int = Field(30, ge=1)  # at most, of Newton's method


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`. Raises DataError where no list has an answer."""
    lists = training.lists
    assert lists is not None, "asked for by READS_LISTS"
    lists = lists.select("chosen", *READS_LISTS).persist()
    try:
        weights, facts = _newton(lists, READS_LISTS, config)
    finally:
        lists.unpersist()
    counts = artifact.counts(training.events, training.num_items)
    artifact.write_shown(
        folder,
        model="shown_logit",
        popularity=counts,
        fields=READS_LISTS,
        weights=tuple(float(weight) for weight in weights),
    )
    return facts


def _newton(
    lists: DataFrame, names: tuple[str, ...], config: Config
) -> tuple[Floats, dict[str, Any]]:
    """(weights (F,), facts). A step that does not raise the likelihood is halved."""
    weights: Floats = np.zeros(len(names))
    step: Floats = np.zeros(len(names))
    best = -np.inf
    facts: dict[str, Any] = {}
    for iteration in range(1, config.iterations + 1):
        facts["iterations"] = iteration
        count, likelihood, gradient, hessian = _sums(lists, names, weights + step)
        if not count:
            raise DataError(
                "lists to fit on",
                found="none of which an item was chosen",
                expected="at least one in the fitted parts",
                remedy="give impressions a `value`, and a split of sessions by action",
            )
        likelihood -= config.reg * float((weights + step) @ (weights + step)) / 2
        if likelihood < best:
            step = step / 2
            continue
        gained, best, weights = likelihood - best, likelihood, weights + step
        if gained < TOLERANCE * count:
            break
        curved = hessian + config.reg * np.eye(len(names))
        step = np.asarray(np.linalg.solve(curved, gradient - config.reg * weights), np.float64)
    learned = {f"weight_{name}": float(w) for name, w in zip(names, weights, strict=True)}
    return weights, facts | {"lists": count, "log_likelihood": float(best / count)} | learned


def _sums(
    lists: DataFrame, names: tuple[str, ...], weights: Floats
) -> tuple[int, float, Floats, Floats]:
    """(lists, log likelihood, its gradient, its negative Hessian), summed over the partitions: one
    row of each comes to the driver.
    """
    rows = lists.mapInArrow(partial(_of_batches, names, weights), "sums array<double>").toArrow()
    sums = np.array(rows["sums"].to_pylist(), np.float64).reshape(
        -1, 2 + len(names) * (1 + len(names))
    )
    # In an order of their own, as the partitions end in any
    total = sums[np.lexsort(sums.T)].sum(axis=0)
    size = len(names)
    return (
        int(total[0]),
        float(total[1]),
        total[2 : 2 + size],
        total[2 + size :].reshape(size, size),
    )


def _of_batches(
    names: tuple[str, ...], weights: Floats, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    size = len(names)
    total = np.zeros(2 + size * (1 + size))
    for batch in batches:
        if batch.num_rows:
            lengths = batch.column(names[0]).value_lengths().to_numpy(zero_copy_only=False)
            values = np.stack(
                [batch.column(name).flatten().to_numpy(zero_copy_only=False) for name in names],
                axis=1,
            )
            total += of_lists(
                values.astype(np.float64),
                lengths.astype(np.int64),
                batch.column("chosen").to_numpy(zero_copy_only=False).astype(np.int64),
                weights,
            )
    yield pa.RecordBatch.from_pydict({"sums": pa.array([total.tolist()], pa.list_(pa.float64()))})


def of_lists(
    values: Floats, lengths: NDArray[np.int64], chosen: NDArray[np.int64], weights: Floats
) -> Floats:
    """Number of lists, log likelihood, gradient (F,) and negative Hessian (F, F), one after the
    other. values (E, F): features of the items of B lists, one list after the other; chosen (B,).
    """
    first = np.cumsum(lengths) - lengths
    scores = values @ weights
    scores -= np.repeat(np.maximum.reduceat(scores, first), lengths)
    odds = np.exp(scores)
    total = np.add.reduceat(odds, first)
    share = odds / np.repeat(total, lengths)  # (E,)
    mean = np.add.reduceat(values * share[:, None], first)  # (B, F)
    at = first + chosen
    gradient = (values[at] - mean).sum(axis=0)
    hessian = values.T @ (values * share[:, None]) - mean.T @ mean
    likelihood = (scores[at] - np.log(total)).sum()
    return np.concatenate([[len(lengths), likelihood], gradient, hessian.ravel()])

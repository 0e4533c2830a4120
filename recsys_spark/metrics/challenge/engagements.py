"""RecSys Challenge 2020 (Twitter): probabilities of one kind of engagement against what came of the
tweets, as the organisers' program computes them.

    official_pr_auc       area under the lines between the points (recall, precision) of every
                          threshold and (0, 1): auc of precision_recall_curve in scikit-learn. It is
                          too kind to ties: a constant gets (1 + base rate) / 2
    average_precision     mean over the engagements of the precision at their threshold, which took
                          its place in 2021; a constant gets the base rate
    official_rce          100 (1 - log loss / log loss of a constant, the base rate of these very
                          rows), p clipped to [1e-15, 1 - 1e-15]
    official_calibration  mean p / base rate

All are NaN where nothing, or everything, was an engagement. Replicas of the curves are taken over
at most BINS different p (neighbours are joined), and shifted to the exact value of the sample.
Shapes: N rows, R replicas.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import slices
from recsys_spark.metrics.intervals import Replicates, weights

METRICS = ("official_rce", "official_pr_auc", "average_precision", "official_calibration")
CLIP = 1e-15
BINS = 2048
_CHUNK = 2048  # rows weighted at a time: R = 1000 makes 16 MB
Floats = NDArray[np.float64]


def values(label: Floats, p: Floats) -> dict[str, float]:
    """The figures of N rows, label 0 or 1.

    >>> label = np.array([1.0, 0.0, 0.0, 0.0])
    >>> figures = values(label, np.full(4, 0.25))  # the base rate itself
    >>> figures["official_rce"], figures["official_pr_auc"], figures["average_precision"]
    (0.0, 0.625, 0.25)
    """
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    clicks, rows = np.cumsum(label[order])[ends], ends + 1.0
    loss = log_loss(label, p).sum()
    figures = _figures(clicks[None], rows[None], np.array([loss]), np.array([p.sum()]))
    return {name: float(figures[0, column]) for column, name in enumerate(METRICS)}


def log_loss(label: Floats, p: Floats) -> Floats:
    """(N,)."""
    inside = np.clip(p, CLIP, 1 - CLIP)
    return -np.where(label > 0, np.log(inside), np.log1p(-inside))


def _figures(clicks: Floats, rows: Floats, loss: Floats, predicted: Floats) -> Floats:
    """(R, M). clicks, rows (R, S): of the rows down to each threshold, the highest first; loss and
    predicted (R,): sums over all rows.
    """
    total, count = clicks[:, -1], rows[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(rows > 0, clicks / rows, 1.0)
        recall = clicks / total[:, None]
        gained = np.diff(recall, axis=1, prepend=0.0)
        before = np.concatenate([np.ones((len(rows), 1)), precision[:, :-1]], axis=1)
        rate = total / count
        constant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        figures = np.stack(
            [
                100 * (1 - loss / count / constant),
                (gained * (precision + before) / 2).sum(axis=1),
                (gained * precision).sum(axis=1),
                predicted / total,
            ],
            axis=1,
        )
    figures[(total == 0) | (total == count)] = math.nan
    return figures


def measure(
    label: Floats, p: Floats, units: NDArray[np.integer], *, seed: int, replicas: int
) -> dict[str, Replicates]:
    """{all: replicates}. units (N,): numbers of the users, who are drawn with all their rows."""
    exact = np.array(list(values(label, p).values()))
    order = np.argsort(-p, kind="stable")
    label, p, units = label[order], p[order], units[order]
    places = _bins(p)
    loss = log_loss(label, p)
    size = replicas + 1
    clicks, rows = np.zeros((size, places[-1] + 1)), np.zeros((size, places[-1] + 1))
    sums = np.zeros((size, 2))
    for start in range(0, len(p), _CHUNK):
        part = slice(start, start + _CHUNK)
        weight = weights(units[part], seed=seed, replicas=replicas)  # (b, R + 1)
        at, first = np.unique(places[part], return_index=True)
        rows[:, at] += np.add.reduceat(weight, first).T
        clicks[:, at] += np.add.reduceat(weight * label[part, None], first).T
        sums += weight.T @ np.stack([loss[part], p[part]], axis=1)
    drawn = _figures(clicks.cumsum(1), rows.cumsum(1), sums[:, 0], sums[:, 1])
    drawn += exact - drawn[0]
    counts = np.where(np.isfinite(drawn), rows.sum(1)[:, None], 0.0)
    total = np.where(counts > 0, drawn * counts, 0.0)
    return {slices.ALL: Replicates(METRICS, total, counts)}


def _bins(p: Floats) -> NDArray[np.int64]:
    """(N,): the place of each p, which fall, among at most BINS; equal ones share theirs."""
    place = np.append(0, np.cumsum(np.diff(p) != 0))
    if place[-1] < BINS:
        return place
    # Where the run of equal p begins, in BINS parts of all rows
    begins = np.flatnonzero(np.append(True, np.diff(p) != 0))
    return np.unique((begins * BINS // len(p))[place], return_inverse=True)[1]

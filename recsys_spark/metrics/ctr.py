"""Metrics of predicted click probabilities p, with labels 0 and 1: per row, per user, and of all rows together.

    log_loss            mean of -log(p of what happened), p clipped to [eps, 1 - eps], eps = 2.2e-16
    rce                 relative cross entropy in per cent: 100 (1 - log_loss / log loss of a constant p, the click rate of the evaluated
                        rows), as in the RecSys Challenge 2020 (Belli et al.); 0 is no better than that constant
    calibration         mean p / click rate; by tenth of the predictions also both of them, `predicted` and `observed`
    auc                 share of the pairs (clicked row, other row) in the right order, a tie counting one half
    pr_auc              average precision: mean over the clicked rows of the share of clicks among the rows with at least their p
    auc_per_user        mean over users with both labels of the auc of their rows
    auc_per_impression  the same, each user weighted by the number of rows (GAUC: Zhou et al., KDD 2018)

auc and pr_auc need the order of all rows. A `Curve` has it: how many rows with and without click have each different p. Integers, so both
engines count the same; above MOST_SCORES different values p is rounded to fewer bits, the same ones everywhere, until they are fewer.
As in `exposure`, one user's part in a value gives its interval (for auc: the clustered variance of Obuchowski, Biometrics 53, 1997).
Shapes: N rows, S different values of p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics.intervals import Replicates

Floats = NDArray[np.float64]
METRICS = ("rce", "log_loss", "auc", "pr_auc", "auc_per_user", "auc_per_impression", "calibration")
ORDERED = ("auc", "pr_auc")  # that need a Curve
MOST_SCORES = 1 << 22
BITS = (53, 24, 20, 16, 12, 8)  # of p's significand; 53: as it is
TENTH, TENTHS = "decile", 10
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Curve:
    """Values of the metrics in ORDERED over all rows. loss (2, S): what a row with label 0 or 1 and this p adds to the value."""

    scores: Floats  # (S,) different values of p, ascending
    tenth: NDArray[np.int64]  # (S,) 1..10: equal p are in one, that of their middle row
    bits: int
    value: dict[str, float]  # NaN when all rows have one label
    loss: dict[str, Floats]

    @classmethod
    def of(cls, scores: Floats, rows: NDArray[np.int64], clicks: NDArray[np.int64], bits: int) -> Curve:
        """rows, clicks (S,): all rows, and those with a click, that have this p."""
        others = rows - clicks
        positives, negatives, total = int(clicks.sum()), int(others.sum()), int(rows.sum())
        tenth = 1 + TENTHS * (2 * (np.cumsum(rows) - rows) + rows - 1) // max(1, 2 * total)
        if not positives or not negatives:
            return cls(scores, tenth, bits, dict.fromkeys(ORDERED, math.nan), dict.fromkeys(ORDERED, np.zeros((2, len(scores)))))
        below = (np.cumsum(others) - others + others / 2) / negatives  # share of the others that a click with this p beats
        above = 1 - (np.cumsum(clicks) - clicks / 2) / positives  # share of the clicks that beat another row with this p
        auc = float((clicks * below).sum()) / positives
        found = np.cumsum(clicks[::-1])[::-1]  # clicks among the rows with at least this p
        counted = np.cumsum(rows[::-1])[::-1]
        precision, share = found / counted, clicks / positives
        average = float((share * precision).sum())
        losses = {
            "auc": np.stack([(above - auc) / negatives, (below - auc) / positives]),
            # A row changes the precision at its own p and at every lower one; a click is one more to be averaged over, too.
            "pr_auc": np.stack([-np.cumsum(share * precision / counted),
                                (precision - average) / positives + np.cumsum(share * (1 - precision) / counted)]),
        }
        return cls(scores, tenth, bits, {"auc": auc, "pr_auc": average}, losses)

    @classmethod
    def of_rows(cls, p: Floats, label: Floats) -> Curve:
        for bits in BITS:
            scores, which = np.unique(rounded(p, bits), return_inverse=True)
            if len(scores) <= MOST_SCORES or bits == BITS[-1]:
                break
        rows = np.bincount(which, minlength=len(scores))
        return cls.of(scores, rows, np.bincount(which[label > 0], minlength=len(scores)), bits)

    def place(self, p: Floats) -> NDArray[np.int64]:
        """(N,): which of the S values each p is."""
        return np.searchsorted(self.scores, rounded(p, self.bits))


def rounded(p: Floats, bits: int) -> Floats:
    """p to so many bits of its significand, by operations that every IEEE machine rounds alike (Veltkamp's splitting)."""
    if bits == BITS[0]:
        return p
    far = p * float(2 ** (53 - bits) + 1)
    return far - (far - p)


def log_loss(label: Floats, p: Floats) -> Floats:
    """(N,)."""
    inside = np.clip(p, _EPS, 1 - _EPS)
    return -np.where(label > 0, np.log(inside), np.log1p(-inside))


def finished(made: Replicates, wanted: Sequence[str], label: str) -> Replicates:
    """The metrics of one slice: of its columns log_loss, label and p, sums over rows; others stay. rce is kept as value x rows.

    A tenth of the predictions has predicted, observed and calibration alone.
    """
    column = {name: number for number, name in enumerate(made.names)}
    rows = made.counts[:, column["log_loss"]]
    loss, clicks, predicted = (made.sums[:, column[name]] for name in ("log_loss", "label", "p"))
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = clicks / rows
        constant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))  # NaN where all rows have one label
        rce = 100 * (1 - loss / rows / constant)
    there = np.isfinite(rce)
    columns = {
        "rce": (np.where(there, rce * rows, 0.0), np.where(there, rows, 0.0)),
        "log_loss": (loss, rows),
        "calibration": (predicted, clicks),
    }
    columns |= {name: (made.sums[:, at], made.counts[:, at]) for name, at in column.items() if name not in ("log_loss", "label", "p")}
    kept = [name for name in columns if name in wanted]
    if label.startswith(f"{TENTH}:"):
        columns |= {"predicted": (predicted, rows), "observed": (clicks, rows)}
        kept = ["predicted", "observed", "calibration"] if "calibration" in wanted else []
    if not kept:
        return Replicates((), np.zeros((len(rows), 0)), np.zeros((len(rows), 0)))
    return Replicates(tuple(kept), *(np.stack([columns[name][side] for name in kept], axis=1) for side in (0, 1)))

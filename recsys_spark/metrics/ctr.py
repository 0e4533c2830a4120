"""Metrics of predicted click probabilities p, with labels 0 and 1: per row, per user, and of all
rows together.

    log_loss            mean of -log(p of what happened), p clipped to [eps, 1 - eps], eps = 2.2e-16
    rce                 relative cross entropy in per cent: 100 (1 - log_loss / log loss of a
                        constant p, the click rate of the evaluated rows), as in the RecSys
                        Challenge 2020 (Belli et al.); 0 is no better than that constant
    calibration         mean p / click rate; by tenth of the predictions also both of them,
                        `predicted` and `observed`
    auc                 share of the pairs (clicked row, other row) in the right order, a tie
                        counting one half
    pr_auc              average precision: mean over the clicked rows of the share of clicks among
                        the rows with at least their p
    auc_per_user        mean over users with both labels of the auc of their rows
    auc_per_impression  the same, each user weighted by the number of rows (GAUC: Zhou et al., KDD
    2018)

auc and pr_auc need the order of all rows. A `Curve` has it: the numbers of rows with and without
click for each different p. These are integers, so both engines agree; above MOST_SCORES different
values, p is rounded to fewer bits, equally in both engines, until there are fewer values. As in
`exposure`, the contribution of single users gives the interval (for auc: the clustered variance of
Obuchowski, Biometrics 53, 1997). Shapes: N rows, S different values of p.
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
ORDERED = ("auc", "pr_auc")  # metrics that need a Curve
MOST_SCORES = 1 << 22
BITS = (53, 24, 20, 16, 12, 8)  # bits of p's significand; 53: not rounded
TENTH, TENTHS = "decile", 10
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Curve:
    """Values of the metrics in ORDERED over all rows. loss (2, S): contribution of a row with label
    0 or 1 and this p to the value.
    """

    scores: Floats  # (S,) different values of p, ascending
    tenth: NDArray[np.int64]  # (S,) 1..10: rows with equal p are in that of their middle row
    bits: int
    value: dict[str, float]  # NaN when all rows have one label
    loss: dict[str, Floats]

    @classmethod
    def of(
        cls, scores: Floats, rows: NDArray[np.int64], clicks: NDArray[np.int64], bits: int
    ) -> Curve:
        """rows, clicks (S,): numbers of rows, and of rows with a click, with this p."""
        others = rows - clicks
        positives, negatives, total = int(clicks.sum()), int(others.sum()), int(rows.sum())
        tenth = 1 + TENTHS * (2 * (np.cumsum(rows) - rows) + rows - 1) // max(1, 2 * total)
        if not positives or not negatives:
            return cls(
                scores,
                tenth,
                bits,
                dict.fromkeys(ORDERED, math.nan),
                dict.fromkeys(ORDERED, np.zeros((2, len(scores)))),
            )
        below = (
            np.cumsum(others) - others + others / 2
        ) / negatives  # share of the other rows ranked below a click with this p
        # Share of the clicks ranked above another row with this p
        above = 1 - (np.cumsum(clicks) - clicks / 2) / positives
        auc = float((clicks * below).sum()) / positives
        clicks_above = np.cumsum(clicks[::-1])[::-1]  # clicks among the rows with at least this p
        counted = np.cumsum(rows[::-1])[::-1]
        precision, share = clicks_above / counted, clicks / positives
        average = float((share * precision).sum())
        losses = {
            "auc": np.stack([(above - auc) / negatives, (below - auc) / positives]),
            # A row changes the precision at its own p and at every lower one; a click is also one
            # more row to average over.
            "pr_auc": np.stack(
                [
                    -np.cumsum(share * precision / counted),
                    (precision - average) / positives
                    + np.cumsum(share * (1 - precision) / counted),
                ]
            ),
        }
        return cls(scores, tenth, bits, {"auc": auc, "pr_auc": average}, losses)

    @classmethod
    def of_rows(cls, p: Floats, label: Floats) -> Curve:
        """The curve of N rows, (N,) each.

        >>> curve = Curve.of_rows(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0]))
        >>> curve.value["auc"]  # 4 pairs (click, other): three right, one tied
        0.875
        >>> curve.value["pr_auc"] == (1 / 1 + 2 / 3) / 2  # clicks among rows with at least .9, .5
        True
        """
        for bits in BITS:
            scores, which = np.unique(rounded(p, bits), return_inverse=True)
            if len(scores) <= MOST_SCORES or bits == BITS[-1]:
                break
        rows = np.bincount(which, minlength=len(scores))
        return cls.of(scores, rows, np.bincount(which[label > 0], minlength=len(scores)), bits)

    def place(self, p: Floats) -> NDArray[np.int64]:
        """(N,): the position of each p among the S values."""
        return np.searchsorted(self.scores, rounded(p, self.bits))


def rounded(p: Floats, bits: int) -> Floats:
    """p rounded to `bits` bits of its significand, by operations with identical results on every
    IEEE machine (Veltkamp's splitting).
    """
    if bits == BITS[0]:
        return p
    far = p * float(2 ** (53 - bits) + 1)
    return far - (far - p)


def log_loss(label: Floats, p: Floats) -> Floats:
    """(N,): the log loss of each row."""
    inside = np.clip(p, _EPS, 1 - _EPS)
    return -np.where(label > 0, np.log(inside), np.log1p(-inside))


def finished(replicates: Replicates, metrics: Sequence[str], label: str) -> Replicates:
    """The metrics of one slice, computed from its columns log_loss, label and p, which are sums
    over rows; other columns are unchanged. rce is stored as value x rows.

    A tenth of the predictions has only predicted, observed and calibration.
    """
    column = {name: number for number, name in enumerate(replicates.names)}
    rows = replicates.counts[:, column["log_loss"]]
    loss, clicks, predicted = (
        replicates.sums[:, column[name]] for name in ("log_loss", "label", "p")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = clicks / rows
        # NaN where all rows have one label
        constant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        rce = 100 * (1 - loss / rows / constant)
    defined = np.isfinite(rce)
    columns = {
        "rce": (np.where(defined, rce * rows, 0.0), np.where(defined, rows, 0.0)),
        "log_loss": (loss, rows),
        "calibration": (predicted, clicks),
    }
    columns |= {
        name: (replicates.sums[:, at], replicates.counts[:, at])
        for name, at in column.items()
        if name not in ("log_loss", "label", "p")
    }
    kept = [name for name in columns if name in metrics]
    if label.startswith(f"{TENTH}:"):
        columns |= {"predicted": (predicted, rows), "observed": (clicks, rows)}
        kept = ["predicted", "observed", "calibration"] if "calibration" in metrics else []
    if not kept:
        return Replicates((), np.zeros((len(rows), 0)), np.zeros((len(rows), 0)))
    return Replicates(
        tuple(kept), *(np.stack([columns[name][side] for name in kept], axis=1) for side in (0, 1))
    )

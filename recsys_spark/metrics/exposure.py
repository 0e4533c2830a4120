"""Exposure of the catalogue in a model's lists. These metrics are not means over users, so each is
computed together with the contribution of single users.

    coverage  share of the items with a training event that are in the first k places of any user
    gini      Gini coefficient of the number of users that got each of these items: 0 all equal, 1
              everything is one item

Let x_u be the loss of the value when user u is left out (for gini: to first order). value + sqrt(n
(n - 1)) (x_u - mean x) has the value as its mean over n users, and the variance of that mean is the
jackknife's. So these metrics get intervals and paired differences from the same bootstrap as all
others. For coverage the jackknife's variance is too large, because it assumes that other users
would never get an item that was shown once. With f1, f2 items shown to one and to two users,
(3 f1 - f2) / 4 is a better estimate of the term f1 in the jackknife (two terms of Good and
Toulmin's series, smoothed as by Efron and Thisted, Biometrika 63, 1976): the losses are scaled by
the root of that ratio, which is kept at a quarter or more. Shapes: B users, K places, I items, one
row for each of the ks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics.catalogue import Catalogue

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
METRICS = ("coverage", "gini")


@dataclass(frozen=True)
class Part:
    """A value at one k. loss (I + 1,): contribution of one user's exposure to the item; mean: mean
    of the users' losses.
    """

    value: float
    loss: Floats
    mean: float


def count(items: Ints, ks: Sequence[int], num_items: int) -> NDArray[np.int64]:
    """(len(ks), I + 1): number of users with the item in their first k places. items (B, K)
    without repeats; padding (0) is not counted.
    """
    per_k = [np.bincount(items[:, :k].ravel(), minlength=num_items + 1) for k in ks]
    counts = np.stack(per_k).astype(np.int64)
    counts[:, 0] = 0
    return counts


def without_repeats(items: Ints) -> Ints:
    """(B, K): items, with 0 for an item that is at a higher place in the same list."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(again, 0, items) if again.any() else items


def parts(
    counts: NDArray[np.int64],
    catalogue: Catalogue,
    num_users: int,
    metrics: Sequence[str] = METRICS,
) -> dict[str, list[Part]]:
    """{metric: one part for each row of counts}, for those of METRICS in `metrics`. gini is NaN
    when no user got an item.

    >>> four = Catalogue.of(np.array([0, 9, 9, 9, 9]), {}, np.ones(5, int))
    >>> shown = parts(count(np.array([[1, 2], [1, 3]]), (2,), 4), four, num_users=2)
    >>> shown["coverage"][0].value  # three of four items
    0.75
    >>> shown["gini"][0].value  # of 0 1 1 2: (-3 * 0 - 1 * 1 + 1 * 1 + 3 * 2) / (4 * 4)
    0.375
    """
    warm = catalogue.events > 0
    by_metric: dict[str, list[Part]] = {metric: [] for metric in METRICS if metric in metrics}
    for row in counts:
        shown = np.where(warm, row, 0)
        if "coverage" in by_metric:
            size = max(1, catalogue.size)
            share = _narrowed(shown) / size
            alone = np.where(shown == 1, share, 0.0)
            by_metric["coverage"].append(
                Part(
                    float(np.count_nonzero(shown) / size),
                    alone,
                    float(alone.sum()) / num_users,
                )
            )
        if "gini" in by_metric:
            by_metric["gini"].append(_gini(shown, warm, num_users))
    return by_metric


def _narrowed(shown: NDArray[np.int64]) -> float:
    """The factor for the jackknife's standard error of coverage: 1/2 to .87."""
    once, twice = (int(np.count_nonzero(shown == users)) for users in (1, 2))
    return float(np.sqrt(max(0.25, (3 - twice / (once or 1)) / 4)))


def _gini(shown: NDArray[np.int64], warm: NDArray[np.bool_], num_users: int) -> Part:
    n, total = int(np.count_nonzero(warm)), int(shown.sum())
    if not total:
        return Part(np.nan, np.zeros(len(shown)), 0.0)
    times, which, alike = np.unique(shown[warm], return_inverse=True, return_counts=True)
    less = np.cumsum(alike) - alike  # items shown less often
    value = float(((2 * less + alike - n) * times * alike).sum()) / (n * total)
    # With one exposure less, an item is closer to items shown less often and further from the
    # others.
    loss = np.zeros(len(shown))
    loss[warm] = ((2 * less + 1 - n)[which] / n - value) / total
    return Part(value, loss, float((loss * shown).sum()) / num_users)


def values(items: Ints, parts: Sequence[Part], ks: Sequence[int], num_users: int) -> list[Floats]:
    """Values (B,) for each k whose mean over all users is the part's; items (B, K) without
    repeats.
    """
    return [
        spread(part.value, part.loss[items[:, :k]].sum(axis=1), part.mean, num_users)
        for part, k in zip(parts, ks, strict=True)
    ]


def spread(value: float, loss: Floats, mean: float, num_users: int) -> Floats:
    """(B,) values whose mean over all users is `value`; loss (B,): x_u above, mean: of all users'
    losses.
    """
    return value + np.sqrt(num_users * (num_users - 1.0)) * (loss - mean)

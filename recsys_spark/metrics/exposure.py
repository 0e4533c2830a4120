"""How evenly a model's lists show the catalogue. These are no means over users, so each comes with what one user adds to it.

    coverage  share of the items with a training event that stand in anybody's first k places
    gini      Gini coefficient of how many users got each of these items: 0 all alike, 1 everything is one item

Let x_u be what the value loses when user u is left out (of gini: to first order). value + sqrt(n (n - 1)) (x_u - mean x) has the value
as its mean over n users, and the variance of that mean is the jackknife's, which on average is not too small (Efron and Stein, Annals of
Statistics 9, 1981). So these numbers get intervals and paired differences from the same bootstrap as all others.
Shapes: B users, K places, I items, one row for each of the ks.
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
    """A value at one k. loss (I + 1,): what one user's having the item adds to the value; mean: of the users' losses."""

    value: float
    loss: Floats
    mean: float


def count(items: Ints, ks: Sequence[int], num_items: int) -> NDArray[np.int64]:
    """(len(ks), I + 1): users with the item in their first k places; 0, and an item that stood higher, are not counted."""
    found = [np.bincount(items[:, :k].ravel(), minlength=num_items + 1) for k in ks]
    made = np.stack(found).astype(np.int64)
    made[:, 0] = 0
    return made


def without_repeats(items: Ints) -> Ints:
    """(B, K): an item that stood higher in the same list is 0."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(again, 0, items) if again.any() else items


def parts(counts: NDArray[np.int64], catalogue: Catalogue, num_users: int, wanted: Sequence[str] = METRICS) -> dict[str, list[Part]]:
    """{metric: one part for each row of counts}, of the wanted ones of METRICS. gini is NaN when nobody got an item."""
    known = catalogue.events > 0
    made: dict[str, list[Part]] = {metric: [] for metric in METRICS if metric in wanted}
    for row in counts:
        shown = np.where(known, row, 0)
        if "coverage" in made:
            alone = np.where(shown == 1, 1 / max(1, catalogue.size), 0.0)
            made["coverage"].append(Part(np.count_nonzero(shown) / max(1, catalogue.size), alone, float(alone.sum()) / num_users))
        if "gini" in made:
            made["gini"].append(_gini(shown, known, num_users))
    return made


def _gini(shown: NDArray[np.int64], known: NDArray[np.bool_], num_users: int) -> Part:
    n, total = int(np.count_nonzero(known)), int(shown.sum())
    if not total:
        return Part(np.nan, np.zeros(len(shown)), 0.0)
    times, which, alike = np.unique(shown[known], return_inverse=True, return_counts=True)
    less = np.cumsum(alike) - alike  # items shown less often
    value = float(((2 * less + alike - n) * times * alike).sum()) / (n * total)
    # One showing less: the item comes closer to those shown less often, and falls further behind all others.
    loss = np.zeros(len(shown))
    loss[known] = ((2 * less + 1 - n)[which] / n - value) / total
    return Part(value, loss, float((loss * shown).sum()) / num_users)


def values(items: Ints, parts: Sequence[Part], ks: Sequence[int], num_users: int) -> list[Floats]:
    """Values (B,) for each k whose mean over all users is the part's; items (B, K) without repeats."""
    return [spread(part.value, part.loss[items[:, :k]].sum(axis=1), part.mean, num_users) for part, k in zip(parts, ks, strict=True)]


def spread(value: float, loss: Floats, mean: float, num_users: int) -> Floats:
    """(B,) values whose mean over all users is `value`; loss (B,): x_u above, mean: of all users' losses."""
    return value + np.sqrt(num_users * (num_users - 1.0)) * (loss - mean)

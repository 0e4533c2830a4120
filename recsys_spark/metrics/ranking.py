"""Ranking metrics of ranked lists, one value per query, and sums of them that merge.

Shapes: B queries, K places of a list (place 0 is the best), T targets of a query, H hits in the whole block, k a cut-off.

    recall     hits in the first k / T
    precision  hits in the first k / k
    hit_rate   1 if there is a hit in the first k
    mrr        1 / (place of the first hit + 1), 0 if it is not in the first k
    map        mean over the min(k, T) best possible hits of (hits so far / (place + 1))
    ndcg       sum of 1 / log2(place + 2) over the hits, divided by that of a list that opens with min(k, T) hits

Every query has at least one target: a query without one has no value and is left out by the caller. A place that holds 0
(padding), or an item that stood higher in the same list, cannot hit; later places do not move up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.core.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
METRICS = ("recall", "precision", "hit_rate", "mrr", "map", "ndcg")
_BLOCK = 1 << 22  # list places compared at a time: bounds memory to a few tens of MB


def names(ks: Sequence[int]) -> tuple[str, ...]:
    """`recall@10`, ... in the order in which every function of this file returns them. Raises ConfigError for a bad k."""
    if not ks or len(set(ks)) != len(ks) or min(ks) < 1:
        raise ConfigError("ks", found=list(ks), expected="different cut-offs of at least 1", remedy="write for example ks: [10, 20]")
    return tuple(f"{metric}@{k}" for k in ks for metric in METRICS)


def from_hits(hits: NDArray[np.bool_], num_targets: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """Values of every metric at every k, each (B,). hits (B, K): is the item at this place a target? num_targets (B,) >= 1."""
    rows, places = np.nonzero(hits)
    return _values(rows, places, num_targets, ks)


def from_lists(items: Ints, indptr: Ints, targets: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """The same from ranked items (B, K), 0 where a list has ended, and targets as CSR: query b has targets[indptr[b] : indptr[b + 1]]."""
    rows, places = find_hits(items, indptr, targets)
    return _values(rows, places, np.diff(indptr), ks)


def find_hits(items: Ints, indptr: Ints, targets: Ints) -> tuple[Ints, Ints]:
    """(query, place) of every hit, each (H,), ordered by query and place. The targets of a query are different items >= 1."""
    query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))  # (targets,)
    step = max(1, _BLOCK // max(1, items.shape[1]))
    rows, places = [], []
    for start in range(0, len(query), step):
        # Each target is compared with its query's list; argmax finds the first place, so a repeated item hits once.
        block = slice(start, start + step)
        same = items[query[block]] == targets[block, None]  # (step, K)
        place = same.argmax(axis=1)
        found = same[np.arange(len(place)), place]
        rows.append(query[block][found])
        places.append(place[found])
    row, place = np.concatenate(rows or [query]), np.concatenate(places or [query])
    order = np.lexsort((place, row))
    return row[order], place[order]


def _values(rows: Ints, places: Ints, num_targets: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """rows, places (H,) of the hits, ordered; the work grows with the hits, not with the length of the lists."""
    assert len(num_targets) == 0 or num_targets.min() >= 1, "a query without targets has no value; leave it out"
    size = len(num_targets)
    per_row = np.bincount(rows, minlength=size)
    nth = np.arange(1, len(rows) + 1) - (np.cumsum(per_row) - per_row)[rows]  # (H,): the row's first, second ... hit
    discounts = 1.0 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.cumsum(discounts)
    values: dict[str, Floats] = {}
    names(ks)
    for k in ks:
        inside = places < k
        row, place, order = rows[inside], places[inside], nth[inside]
        hits = np.bincount(row, minlength=size)
        best = np.minimum(num_targets, k)  # hits of a perfect list
        first = np.zeros(size)
        first[row[order == 1]] = 1.0 / (place[order == 1] + 1)
        values[f"recall@{k}"] = hits / num_targets
        values[f"precision@{k}"] = hits / k
        values[f"hit_rate@{k}"] = (hits > 0).astype(np.float64)
        values[f"mrr@{k}"] = first
        values[f"map@{k}"] = np.bincount(row, weights=order / (place + 1), minlength=size) / best
        values[f"ndcg@{k}"] = np.bincount(row, weights=discounts[place], minlength=size) / ideal[best - 1]
    return values


def mean_popularity(items: Ints, events: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """Mean number of training events of the first k items, (B,) for each k; NaN for an empty list, which has none.

    items (B, K), 0 where a list has ended; events (B, K): training events of the item at that place.
    """
    values = {}
    for k in ks:
        there = items[:, :k] != 0
        count = there.sum(axis=1)
        total = np.where(there, events[:, :k], 0).sum(axis=1)
        values[f"mean_popularity@{k}"] = np.divide(total, count, out=np.full(len(items), np.nan), where=count > 0)
    return values


@dataclass(frozen=True)
class Sums:
    """Sums and counts of named values: added over blocks, ranks or partitions, divided once."""

    names: tuple[str, ...]
    values: Floats  # (names,)
    counts: Floats  # (names,)

    @classmethod
    def of(cls, values: Mapping[str, Floats]) -> Sums:
        """Of per-query values; NaN means that the query has no such value."""
        table = np.stack(list(values.values())) if values else np.zeros((0, 0))
        return cls(tuple(values), np.nansum(table, axis=1), (~np.isnan(table)).sum(axis=1).astype(np.float64))

    @classmethod
    def zero(cls, names: Sequence[str]) -> Sums:
        return cls(tuple(names), np.zeros(len(names)), np.zeros(len(names)))

    def merge(self, other: Sums) -> Sums:
        assert self.names == other.names, f"sums of {self.names} and {other.names} do not merge"
        return Sums(self.names, self.values + other.values, self.counts + other.counts)

    def means(self) -> dict[str, float]:
        """sum / count by name; NaN where nothing was counted."""
        with np.errstate(invalid="ignore"):
            return dict(zip(self.names, (self.values / self.counts).tolist(), strict=True))

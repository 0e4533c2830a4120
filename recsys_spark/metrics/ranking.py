"""Ranking metrics of ranked lists, one value per query, and mergeable sums of them.

Shapes: B queries, K places of a list (place 0 is the best), T targets of a query, k a cut-off.

    recall         hits in the first k / T
    recall_capped  hits in the first k / min(k, T): a full list of hits has 1 even if T > k
    precision      hits in the first k / k
    hit_rate       1 if there is a hit in the first k
    mrr            1 / (place of the first hit + 1), 0 if it is not in the first k
    map            mean over the min(k, T) best possible hits of (hits so far / (place + 1))
    ndcg           sum of 1 / log2(place + 2) over the hits, divided by that of a list that begins
                   with min(k, T) hits

Every query has at least one target: a query without one has no value and is left out by the caller.
A place with 0 (padding), or with an item that is at a higher place in the same list, cannot hit;
later places do not move up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.core.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
METRICS = ("recall", "recall_capped", "precision", "hit_rate", "mrr", "map", "ndcg")
# List places measured at a time, so that intermediate arrays stay in a core's cache
_PLACES = 1 << 17


def names(ks: Sequence[int]) -> tuple[str, ...]:
    """`recall@10`, ... in the order that all functions of this file use. Raises ConfigError for an
    invalid k.
    """
    if not ks or len(set(ks)) != len(ks) or min(ks) < 1:
        raise ConfigError(
            "ks",
            found=list(ks),
            expected="different cut-offs of at least 1",
            remedy="write for example ks: [10, 20]",
        )
    return tuple(f"{metric}@{k}" for k in ks for metric in METRICS)


def from_lists(
    items: Ints, indptr: Ints, targets: Ints, ks: Sequence[int], *, threads: int = 1
) -> dict[str, Floats]:
    """Values of every metric at every k, each (B,).

    items (B, K): ranked, 0 after the end of a list. targets: as CSR, query b has targets[indptr[b]
    : indptr[b + 1]], distinct items >= 1. threads: number of threads that measure blocks of
    queries.

    >>> lists = np.array([[5, 8, 2]])  # one query, whose targets are items 8 and 9
    >>> values = from_lists(lists, np.array([0, 2]), np.array([8, 9]), ks=[3])
    >>> {name: round(float(value[0]), 3) for name, value in values.items()} == {
    ...     "recall@3": 0.5, "recall_capped@3": 0.5, "precision@3": 0.333, "hit_rate@3": 1.0,
    ...     "mrr@3": 0.5,  # 1 / 2: the hit is at the second place
    ...     "map@3": 0.25,  # (1 / 2) / 2
    ...     "ndcg@3": 0.387,  # (1 / log2 3) / (1 + 1 / log2 3)
    ... }
    True
    """

    def find(part: slice) -> NDArray[np.bool_]:
        bounds = indptr[part.start : part.stop + 1]
        return _find(items[part], bounds - bounds[0], targets[bounds[0] : bounds[-1]])

    return _measure(find, np.diff(indptr), items.shape[1], ks, threads)


def from_hits(hits: NDArray[np.bool_], num_targets: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """The same from hits (B, K): whether the item at a place is a target. num_targets (B,) >= 1."""
    return _measure(lambda part: hits[part].T, num_targets, hits.shape[1], ks, 1)


def _measure(
    find: Callable[[slice], NDArray[np.bool_]],
    num_targets: Ints,
    width: int,
    ks: Sequence[int],
    threads: int,
) -> dict[str, Floats]:
    assert len(num_targets) == 0 or num_targets.min() >= 1, (
        "a query without targets has no value; leave it out"
    )
    size = len(num_targets)
    values = {name: np.empty(size) for name in names(ks)}
    step = max(64, _PLACES // max(1, width))

    def one(start: int) -> None:
        part = slice(start, min(size, start + step))
        _fill(
            {name: value[part] for name, value in values.items()}, find(part), num_targets[part], ks
        )

    if threads == 1:
        _all(map(one, range(0, size, step)))
    else:
        with ThreadPoolExecutor(threads) as pool:
            _all(pool.map(one, range(0, size, step)))
    return values


def _all(done: Iterable[None]) -> None:
    for _ in done:
        pass


def _find(items: Ints, indptr: Ints, targets: Ints) -> NDArray[np.bool_]:
    """hits (K, B): transposed, so that comparisons are vectorised over queries, even with few
    places and targets per query.
    """
    num_targets = np.diff(indptr)
    # For every t, queries with a t-th target come first
    order = np.argsort(-num_targets, kind="stable")
    lists, starts, waiting = (
        np.ascontiguousarray(items[order].T),
        indptr[:-1][order],
        -num_targets[order],
    )
    hits, same = np.zeros(lists.shape, bool), np.empty(lists.shape, bool)
    num_found = 0
    for t in range(int(num_targets.max(initial=0))):
        active = int(np.searchsorted(waiting, -t))  # queries with more than t targets
        now = np.equal(lists[:, :active], targets[starts[:active] + t], out=same[:, :active])
        hits[:, :active] |= now
        num_found += int(np.count_nonzero(np.logical_or.reduce(now, axis=0)))
    if np.count_nonzero(hits) > num_found:  # an item is repeated in a list
        for query in np.flatnonzero(np.count_nonzero(hits, axis=0) > 1):
            places = np.flatnonzero(hits[:, query])
            _, first = np.unique(lists[places, query], return_index=True)
            hits[np.delete(places, first), query] = False
    restored = np.empty_like(hits)
    restored[:, order] = hits
    return restored


def _fill(
    values: Mapping[str, Floats], hits: NDArray[np.bool_], num_targets: Ints, ks: Sequence[int]
) -> None:
    """hits (K, B). One pass over the places: after place k - 1 the running sums give every metric
    at k.
    """
    width, size = hits.shape
    discounts = 1.0 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.cumsum(discounts)
    count, gain, precisions, first = (np.zeros(size) for _ in range(4))
    hit, scaled = np.empty(size), np.empty(size)
    done = 0
    for k in sorted(ks):
        for place in range(done, min(k, width)):
            hit[:] = hits[place]
            count += hit
            gain += np.multiply(hit, discounts[place], out=scaled)
            hit *= 1.0 / (place + 1)
            # Decreases with the place: the first hit has the largest
            np.maximum(first, hit, out=first)
            precisions += np.multiply(hit, count, out=scaled)
        done = min(k, width)
        best = np.minimum(num_targets, k)  # hits of an ideal list
        np.divide(count, num_targets, out=values[f"recall@{k}"])
        np.divide(count, best, out=values[f"recall_capped@{k}"])
        np.divide(count, k, out=values[f"precision@{k}"])
        values[f"hit_rate@{k}"][:] = count > 0
        values[f"mrr@{k}"][:] = first
        np.divide(precisions, best, out=values[f"map@{k}"])
        np.divide(gain, ideal[best - 1], out=values[f"ndcg@{k}"])


@dataclass(frozen=True)
class Sums:
    """Sums and counts of named values, added over blocks, ranks or partitions and divided once."""

    names: tuple[str, ...]
    values: Floats  # (names,)
    counts: Floats  # (names,)

    @classmethod
    def of(cls, values: Mapping[str, Floats]) -> Sums:
        """Sums of per-query values; a NaN means that the query has no value."""
        table = np.stack(list(values.values())) if values else np.zeros((0, 0))
        return cls(
            tuple(values),
            np.nansum(table, axis=1),
            (~np.isnan(table)).sum(axis=1).astype(np.float64),
        )

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

"""Ranking metrics of scored candidate sets, as the expectation over all orders of equal scores, so
that ties give no advantage.

Candidates of a query are a set. Those with equal scores form a tie group; each metric is its mean
over all orders of the items inside their groups (`ranking` has the definitions), so a constant
score has exactly the value of a random order. In closed form, for a group of m items, t of them
targets, that begins after s better items, with H hits above it:

    recall, precision, ndcg   a place p of the group (s < p <= s + m) holds a target with
                              probability t / m
    map                       given that, H + 1 + (p - s - 1) (t - 1) / (m - 1) hits stand at or
                              above it on average
    hit_rate, mrr             the first c places of the group hold no target with probability
                              C(m - t, c) / C(m, c)

    auc   share of the pairs (target, other candidate) in the right order, a tie counting one half;
          NaN without such a pair

Shapes: B queries, C candidates in total, G tie groups with a target, T targets of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import ranking

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
METRICS = (*ranking.METRICS, "auc")


@dataclass(frozen=True)
class Groups:
    """Tie groups with a target, sorted by query and then best first; (G,) each."""

    query: Ints
    before: Ints  # s: candidates with a better score
    size: Ints  # m
    hits: Ints  # t: targets in the group
    above: Ints  # H: targets with a better score


def from_scores(
    indptr: Ints, is_target: NDArray[np.bool_], scores: Floats, num_targets: Ints, ks: Sequence[int]
) -> dict[str, Floats]:
    """Values of every metric at every k, and `auc`, each (B,).

    Candidates of query b are rows indptr[b] : indptr[b + 1] of is_target and scores, (C,) each; a
    NaN ranks below any number. num_targets (B,) >= 1: includes targets that are no candidates and
    therefore cannot be hit.

    >>> target, scores = np.array([True, False, False]), np.array([0.7, 0.7, 0.2])
    >>> values = from_scores(np.array([0, 3]), target, scores, np.array([1]), ks=[1])
    >>> values["hit_rate@1"].tolist()  # the target shares the best score with one other item
    [0.5]
    >>> values["auc"].tolist()  # of two pairs one is tied, one is right
    [0.75]
    """
    assert len(num_targets) == 0 or num_targets.min() >= 1, (
        "a query without targets has no value; leave it out"
    )
    groups = tie_groups(indptr, is_target, scores)
    size = len(num_targets)
    most = int(max([*ks, *(groups.before + groups.size)], default=1))
    places = np.arange(1, most + 1)
    discounts, harmonic = (
        np.concatenate([[0.0], np.cumsum(value)]) for value in (1 / np.log2(places + 1), 1 / places)
    )
    values = {}
    ranking.names(ks)
    for k in ks:
        best = np.minimum(num_targets, k)
        end = np.minimum(groups.before + groups.size, k)  # last place of the group that counts
        inside = np.maximum(0, end - groups.before)  # c
        share = groups.hits / groups.size
        start = np.minimum(groups.before, k)
        hits = _added(groups, share * inside, size)
        step = (groups.hits - 1) / np.maximum(1, groups.size - 1)
        # Mean number of hits at or above place p: fixed + step * p
        fixed = groups.above + 1 - step * (groups.before + 1)
        precisions = share * (fixed * (harmonic[start + inside] - harmonic[start]) + step * inside)
        values[f"recall@{k}"] = hits / num_targets
        values[f"recall_capped@{k}"] = hits / best
        values[f"precision@{k}"] = hits / k
        values[f"hit_rate@{k}"], values[f"mrr@{k}"] = _first(groups, size, k, harmonic)
        values[f"map@{k}"] = _added(groups, precisions, size) / best
        values[f"ndcg@{k}"] = (
            _added(groups, share * (discounts[start + inside] - discounts[start]), size)
            / discounts[best]
        )
    return values | {"auc": _auc(groups, indptr, is_target)}


def auc(indptr: Ints, is_target: NDArray[np.bool_], scores: Floats) -> Floats:
    """(B,): only the metric `auc`."""
    return _auc(tie_groups(indptr, is_target, scores), indptr, is_target)


def _added(groups: Groups, value: Floats, size: int) -> Floats:
    """(B,): sums over the groups of each query."""
    return np.bincount(groups.query, weights=value, minlength=size).astype(np.float64)


def tie_groups(indptr: Ints, is_target: NDArray[np.bool_], scores: Floats) -> Groups:
    query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    falling = np.where(np.isnan(scores), np.inf, -scores.astype(np.float64))
    order = np.lexsort((falling, query))
    query, falling, hit = query[order], falling[order], is_target[order]
    opens = np.ones(len(query), bool)
    opens[1:] = (query[1:] != query[:-1]) | (falling[1:] != falling[:-1])
    first = np.flatnonzero(opens)
    group_query = query[first]
    hits_before = np.concatenate([[0], np.cumsum(hit)])
    ends = np.append(first[1:], len(query))
    hits = hits_before[ends] - hits_before[first]
    kept = hits > 0
    begins = indptr[:-1][group_query]  # where the group's query begins
    return Groups(
        group_query[kept],
        (first - begins)[kept],
        (ends - first)[kept],
        hits[kept],
        (hits_before[first] - hits_before[begins])[kept],
    )


def _first(groups: Groups, size: int, k: int, harmonic: Floats) -> tuple[Floats, Floats]:
    """(hit_rate, mrr), (B,) each, from the best group with a target, which always holds the first
    hit.
    """
    top = np.flatnonzero(np.diff(groups.query, prepend=-1) != 0)
    query, before, items, hits = (
        groups.query[top],
        groups.before[top],
        groups.size[top],
        groups.hits[top],
    )
    inside = np.clip(k - before, 0, items)
    hit, first = np.zeros(len(top)), np.zeros(len(top))
    single = hits == 1
    hit[single] = inside[single] / items[single]
    first[single] = (harmonic[before + inside] - harmonic[before])[single] / items[single]
    left = np.flatnonzero(~single & (inside > 0))
    none = np.ones(len(left))  # probability that the places so far hold no target
    place = 0
    while len(left):
        chance = none * hits[left] / (items[left] - place)
        first[left] += chance / (before[left] + place + 1)
        hit[left] += chance
        none = none - chance
        place += 1
        going = (inside[left] > place) & (none > 0)
        left, none = left[going], none[going]
    values = np.zeros((2, size))
    values[0, query], values[1, query] = hit, first
    return np.minimum(values[0], 1.0), values[1]


def _auc(groups: Groups, indptr: Ints, is_target: NDArray[np.bool_]) -> Floats:
    size = len(indptr) - 1
    query = np.repeat(np.arange(size), np.diff(indptr))
    hits = np.bincount(query, weights=is_target, minlength=size)
    others = np.diff(indptr) - hits
    better = groups.before - groups.above  # other candidates above the group
    tied = groups.size - groups.hits
    wrong = np.bincount(groups.query, weights=groups.hits * (better + tied / 2), minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(hits * others > 0, 1 - wrong / (hits * others), np.nan)

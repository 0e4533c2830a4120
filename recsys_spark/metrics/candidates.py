"""Ranking metrics of scored candidate sets, with the expectation over every order of equal scores: ties never flatter.

Candidates of a query are a set. Those with equal scores form a tie group; each metric is its mean over all orders of the items inside their
groups (`ranking` has the definitions), so a constant score earns exactly what a random order earns. In closed form, for a group of m
items, t of them targets, that begins after s better items, with H hits above it:

    a place p of the group (s < p <= s + m) holds a target with probability t / m             -> recall, precision, ndcg
    given that, H + 1 + (p - s - 1) (t - 1) / (m - 1) hits stand at or above it on average      -> map
    the first c places of the group hold no target with probability C(m - t, c) / C(m, c)       -> hit_rate, mrr

    auc   share of the pairs (target, other candidate) in the right order, a tie counting one half; NaN without such a pair

Shapes: B queries, C candidates in all, G tie groups that hold a target, T targets of a query.
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
    """Tie groups that hold a target, by query and then from the best; (G,) each."""

    query: Ints
    before: Ints  # s: candidates with a better score
    size: Ints  # m
    hits: Ints  # t: targets in it
    above: Ints  # H: targets with a better score


def from_scores(indptr: Ints, is_target: NDArray[np.bool_], scores: Floats, num_targets: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """Values of every metric at every k, and `auc`, each (B,).

    Candidates of query b are rows indptr[b] : indptr[b + 1] of is_target and scores, (C,) each; a NaN counts as less than any number.
    num_targets (B,) >= 1: also those that are no candidates, which nothing can find.
    """
    assert len(num_targets) == 0 or num_targets.min() >= 1, "a query without targets has no value; leave it out"
    groups = tie_groups(indptr, is_target, scores)
    size = len(num_targets)
    most = int(max([*ks, *(groups.before + groups.size)], default=1))
    places = np.arange(1, most + 1)
    discounts, harmonic = (np.concatenate([[0.0], np.cumsum(value)]) for value in (1 / np.log2(places + 1), 1 / places))
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
        fixed = groups.above + 1 - step * (groups.before + 1)  # hits at or above place p, on average: fixed + step * p
        precisions = share * (fixed * (harmonic[start + inside] - harmonic[start]) + step * inside)
        values[f"recall@{k}"] = hits / num_targets
        values[f"recall_capped@{k}"] = hits / best
        values[f"precision@{k}"] = hits / k
        values[f"hit_rate@{k}"], values[f"mrr@{k}"] = _first(groups, size, k, harmonic)
        values[f"map@{k}"] = _added(groups, precisions, size) / best
        values[f"ndcg@{k}"] = _added(groups, share * (discounts[start + inside] - discounts[start]), size) / discounts[best]
    return values | {"auc": _auc(groups, indptr, is_target)}


def auc(indptr: Ints, is_target: NDArray[np.bool_], scores: Floats) -> Floats:
    """(B,): `auc` alone."""
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
    of = query[first]
    found = np.concatenate([[0], np.cumsum(hit)])
    ends = np.append(first[1:], len(query))
    hits = found[ends] - found[first]
    kept = hits > 0
    begins = indptr[:-1][of]  # where the group's query begins
    return Groups(of[kept], (first - begins)[kept], (ends - first)[kept], hits[kept], (found[first] - found[begins])[kept])


def _first(groups: Groups, size: int, k: int, harmonic: Floats) -> tuple[Floats, Floats]:
    """(hit_rate, mrr), (B,) each: of the best group with a target, for no other can hold the first hit."""
    top = np.flatnonzero(np.diff(groups.query, prepend=-1) != 0)
    query, before, items, hits = groups.query[top], groups.before[top], groups.size[top], groups.hits[top]
    inside = np.clip(k - before, 0, items)
    hit, first = np.zeros(len(top)), np.zeros(len(top))
    one = hits == 1
    hit[one] = inside[one] / items[one]
    first[one] = (harmonic[before + inside] - harmonic[before])[one] / items[one]
    left = np.flatnonzero(~one & (inside > 0))
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
    made = np.zeros((2, size))
    made[0, query], made[1, query] = hit, first
    return np.minimum(made[0], 1.0), made[1]


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

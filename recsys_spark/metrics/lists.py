"""Properties of lists other than hits: one value per query, for its first k items. NaN for an empty
list.

    mean_popularity  mean number of training events of the items
    novelty          mean of -log2(an item's share of the training events), in bits (Zhou et al.,
                     PNAS 107, 2010)
    cold_share       share of the items that have no training event
    diversity        mean over the pairs of items of 1 - cosine of their fields' values (intra-list
                     distance; Ziegler et al., WWW 2005); items without a value are left out. Mean
                     cosines come from the sum of the vectors: the work grows with k, not k^2
    serendipity      share of the k places that hold a hit which popularity alone would not have
                     made: one that is not among the k most popular items that the user does not
                     know (Ge, Delgado-Battenfeld and Jannach, RecSys 2010)

Shapes: B queries, K places, I items, V field values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import ranking
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.ragged import distinct

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
METRICS = ("mean_popularity", "novelty", "cold_share", "diversity", "serendipity")


def mean_of(items: Ints, values: NDArray, ks: Sequence[int]) -> list[Floats]:
    """Mean of values[item], (I + 1,), over the items in the first k places, (B,) for each k.
    A repeated item counts each time.

    >>> events = np.array([0, 100, 10, 0])
    >>> mean_of(np.array([[1, 2, 2], [3, 0, 0], [0, 0, 0]]), events, ks=[2, 3])
    [array([55.,  0., nan]), array([40.,  0., nan])]
    """
    present = items != 0
    total = np.cumsum(np.where(present, values[items], 0), axis=1, dtype=np.float64)  # (B, K)
    count = np.cumsum(present, axis=1)
    with np.errstate(invalid="ignore"):
        return [total[:, at] / count[:, at] for at in _last(ks, items.shape[1])]


def mean_popularity(items: Ints, catalogue: Catalogue, ks: Sequence[int]) -> list[Floats]:
    return mean_of(items, catalogue.events, ks)


def novelty(items: Ints, catalogue: Catalogue, ks: Sequence[int]) -> list[Floats]:
    return mean_of(items, catalogue.information, ks)


def cold_share(items: Ints, catalogue: Catalogue, ks: Sequence[int]) -> list[Floats]:
    return mean_of(items, catalogue.events == 0, ks)


PLAIN: dict[str, Callable[[Ints, Catalogue, Sequence[int]], list[Floats]]] = {
    "mean_popularity": mean_popularity,
    "novelty": novelty,
    "cold_share": cold_share,
}


def diversity(items: Ints, vectors: Floats, ks: Sequence[int]) -> list[Floats]:
    """vectors (I + 1, V), of length 1 or 0. NaN for fewer than two items with a value.

    >>> genres = np.array([[0, 0], [1, 0], [1, 0], [0, 1.0]])  # items 1 and 2 are alike
    >>> lists_of_two_users = np.array([[1, 2, 3], [3, 0, 0]])
    >>> diversity(lists_of_two_users, genres, ks=[3])[0].round(3)  # pairs: 0, 1, 1; no pair
    array([0.667,   nan])
    """
    has: NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
    by_place: dict[int, Floats] = {}
    total, count = np.zeros((len(items), vectors.shape[1])), np.zeros(len(items))
    last_places = set(_last(ks, items.shape[1]))
    for place in range(items.shape[1]):
        item = items[:, place]
        total += vectors[item]
        count += has[item]
        if place in last_places:
            pairs = count * (count - 1)  # ordered pairs; |sum|^2 = count + the sum of their cosines
            with np.errstate(invalid="ignore", divide="ignore"):
                by_place[place] = np.where(
                    pairs > 0, 1 - (np.square(total).sum(axis=1) - count) / pairs, np.nan
                )
    return [by_place[at] for at in _last(ks, items.shape[1])]


def serendipity(
    items: Ints, indptr: Ints, targets: Ints, expected: Ints, place: Ints, ks: Sequence[int]
) -> list[Floats]:
    """expected (B, len(ks)) from `expected_until`; place (I + 1,) from `Catalogue.place`. Targets
    as in `ranking.from_lists`.
    """
    values = []
    for column, k in enumerate(ks):
        # Other items become 0 but keep their place
        surprising = np.where(place[items[:, :k]] > expected[:, column, None], items[:, :k], 0)
        values.append(ranking.from_lists(surprising, indptr, targets, (k,))[f"precision@{k}"])
    return values


def expected_until(indptr: Ints, known: Ints, place: Ints, ks: Sequence[int]) -> Ints:
    """(B, len(ks)): the place, in the order of popularity, of the k-th item that the user does not
    know.

    known: items of user b are known[indptr[b] : indptr[b + 1]]; repeated ones count once.
    """
    users = len(indptr) - 1
    user = np.repeat(np.arange(users), np.diff(indptr))
    taken = distinct(user * np.int64(len(place)) + place[known])  # by user, then by place
    user, at = taken // len(place), taken % len(place)
    first = np.searchsorted(user, np.arange(users))
    # More popular items that the user does not know
    unknown_before = at - 1 - (np.arange(len(at)) - first[user])
    return np.stack(
        [k + np.bincount(user[unknown_before < k], minlength=users) for k in ks], axis=1
    )


def _last(ks: Sequence[int], width: int) -> list[int]:
    return [min(k, width) - 1 for k in ks]

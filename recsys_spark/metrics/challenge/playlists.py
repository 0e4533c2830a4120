"""RecSys Challenge 2018, playlists continued by 500 tracks: what the organisers' program computes,
which is not what the rules' page prints (C.-W. Chen et al., RecSys 2018,
doi:10.1145/3240323.3240342).

G: a playlist's withheld tracks as a set. R: the answer, cut to 500 places; of a track that stands
there again only the first place counts.

    r_precision         tracks of G in the first |G| places of R / |G|. No place moves up
    r_precision_artist  and 0.25 for each artist of G who has a track that is not in G among those
                        places: an artist counts once, whether another track of theirs hits or not.
                        What the leader board shows
    playlist_ndcg       sum of 1 / log2(rank + 1) over the hits, of a list of min(500, |G|) hits.
                        Places move up past repeats, after the cut
    clicks              pages of ten before the first hit, rounded down; 51 without a hit
    playlist_ndcg_rules the page's: rel_1 + sum of rel_i / log2(i) from the second place on, of a
                        list that begins with the *hits*: 1 where they come first, however few

A playlist without an answer has 0, 0, 0 and 51: the organisers' program gives it 0 clicks, which
is the best value.

Shapes: B playlists, K places, I items.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.metrics import blocks, exposure
from recsys_spark.metrics.blocks import NAN, NO_ITEM, UNKNOWN, Settings, Shown
from recsys_spark.metrics.glossary import LOWER_IS_BETTER
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.ragged import csr, dense, distinct

PLACES = 500
PAGE = 10
NEVER = PLACES / PAGE + 1  # clicks without a hit
CREDIT = 0.25
OFFICIAL = ("r_precision_artist", "playlist_ndcg", "clicks")  # what the Borda count goes by
METRICS = (*OFFICIAL, "r_precision", "playlist_ndcg_rules")
Floats = NDArray[np.float64]
Ints = NDArray[np.integer]


def from_lists(
    items: Ints, indptr: Ints, targets: Ints, artist: Ints | None = None
) -> dict[str, Floats]:
    """Values of every metric, each (B,). items (B, K): ranked, 0 where nothing can hit; cut to 500.
    targets: distinct, as CSR. artist (I + 1,): number of each item's artist, 0: unknown; without
    it there is no r_precision_artist. Raises DataError for a playlist from which nothing was
    withheld.

    >>> artist = np.array([0, 1, 1, 2, 3])  # items 1 and 2 are by one artist
    >>> answer = np.array([[2, 4, 3]])  # withheld: items 1 and 3
    >>> values = from_lists(answer, np.array([0, 2]), np.array([1, 3]), artist)
    >>> {name: round(float(value[0]), 3) for name, value in values.items()} == {
    ...     "r_precision": 0.0,  # item 3 stands behind the first two
    ...     "r_precision_artist": 0.125,  # item 2 is by the artist of item 1
    ...     "playlist_ndcg": 0.307,  # (1 / log2 4) / (1 + 1 / log2 3)
    ...     "playlist_ndcg_rules": 0.631,  # (1 / log2 3) / 1
    ...     "clicks": 0.0,
    ... }
    True
    """
    num_targets = np.diff(indptr)
    if (num_targets == 0).any():
        raise DataError(
            "withheld tracks",
            found=f"{int((num_targets == 0).sum())} playlists without one",
            expected="at least one in each that is measured",
            remedy="leave out playlists from which nothing was withheld",
        )
    cut = items[:, :PLACES]
    single = exposure.without_repeats(cut)
    hits = blocks.is_target_of(single, indptr, targets)
    place = np.arange(cut.shape[1])
    counted = place < num_targets[:, None]
    values = {"r_precision": (hits & counted).sum(axis=1) / num_targets}
    if artist is not None:
        others = np.where(counted & ~hits, artist[single], 0)
        credits = _artists_met(others, indptr, artist[targets], int(artist.max(initial=0)))
        values["r_precision_artist"] = values["r_precision"] + CREDIT * credits / num_targets
    moved_up = place - np.cumsum((cut != 0) & (single == 0), axis=1)
    ideal = np.cumsum(1 / np.log2(np.arange(2, PLACES + 2)))
    gain = np.where(hits, 1 / np.log2(moved_up + 2), 0.0).sum(axis=1)
    values["playlist_ndcg"] = gain / ideal[np.minimum(num_targets, PLACES) - 1]
    values["playlist_ndcg_rules"] = _by_the_rules(hits, moved_up)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) // PAGE, NEVER)
    values["clicks"] = first.astype(np.float64)
    return values


def _by_the_rules(hits: NDArray[np.bool_], place: Ints) -> Floats:
    """place: from 0."""
    discounts = 1 / np.log2(np.maximum(place + 1, 2))  # 1 at the first place and the second
    gain = np.where(hits, discounts, 0.0).sum(axis=1)
    best = np.cumsum(1 / np.log2(np.maximum(np.arange(1, PLACES + 1), 2)))
    count = hits.sum(axis=1)
    return np.where(count > 0, gain / best[np.maximum(count, 1) - 1], 0.0)


def _artists_met(others: Ints, indptr: Ints, artists: Ints, highest: int) -> Ints:
    """(B,): artists of the targets who are among `others` (B, K), 0 being nobody."""
    span, size = np.int64(highest + 1), len(indptr) - 1
    row, column = np.nonzero(others)
    met = distinct(row * span + others[row, column])
    owner = np.repeat(np.arange(size), np.diff(indptr))
    wanted = distinct((owner * span + artists)[artists > 0])
    return np.bincount(np.intersect1d(met, wanted, assume_unique=True) // span, minlength=size)


def block(playlists: pa.Table, settings: Settings, _shown: Shown) -> Partial:
    """Columns as for `blocks.ranking_block`. The catalogue's `credit` numbers the artists."""
    playlists = playlists.sort_by(c.QUERY_IDX)
    targets, indptr = csr(playlists["targets"])
    items = dense(playlists["items"], PLACES)
    usable = np.maximum(items, NO_ITEM)
    values = blocks.chosen(from_lists(usable, indptr, targets, settings.catalogue.credit), settings)
    length = (items != NO_ITEM).sum(axis=1)
    odd = {
        "users_without_list": (length == 0).sum(),
        "lists_shorter_than_k": ((length > 0) & (length < PLACES)).sum(),
        "repeated_items": (exposure.without_repeats(usable) != usable).sum(),
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": (items == NAN).sum(),
    }
    return blocks.summed(playlists, blocks.by_user(playlists, values, settings, {}), odd, settings)


def borda(submissions: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Points of each submission, {name: {metric: value}}, by the organisers' ranking: of n
    submissions the best of a metric gets n points, the next n - 1 and so on; equal ones share
    theirs.

    >>> rows = {"a": (0.2, 0.4, 2.0), "b": (0.2, 0.3, 1.0), "c": (0.1, 0.2, 9.0)}
    >>> borda({name: dict(zip(OFFICIAL, row)) for name, row in rows.items()})
    {'a': 7.5, 'b': 7.5, 'c': 3.0}
    """
    points = dict.fromkeys(submissions, 0.0)
    for metric in OFFICIAL:
        sign = -1 if metric in LOWER_IS_BETTER else 1
        values = {name: sign * row[metric] for name, row in submissions.items()}
        for name, value in values.items():
            below = sum(other < value for other in values.values())
            equal = sum(other == value for other in values.values())
            points[name] += below + (equal + 1) / 2
    return points

"""The metrics of the RecSys Challenge 2018: cases worked out by hand, the edges of the organisers'
program, and a plain version of it for random answers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from recsys_spark.core.errors import DataError
from recsys_spark.metrics.challenge import playlists
from recsys_spark.metrics.challenge.playlists import METRICS, borda, from_lists

# Items 1, 2 are by artist 1; 3, 4 by 2; 5 by 3; of item 6 the artist is unknown
ARTIST = np.array([0, 1, 1, 2, 2, 3, 0, *range(4, 700)])


def values(answer: list[int], withheld: list[int]) -> dict[str, float]:
    items = np.zeros((1, max(1, len(answer))), np.int64)
    items[0, : len(answer)] = answer
    found = from_lists(items, np.array([0, len(withheld)]), np.array(sorted(withheld)), ARTIST)
    return {name: float(value[0]) for name, value in found.items()}


IDEAL_2, IDEAL_3 = 1 + 1 / math.log2(3), 1.5 + 1 / math.log2(3)


@pytest.mark.parametrize(
    ("answer", "withheld", "expected"),
    [
        # A perfect answer
        ([1, 3], [1, 3], {"r_precision": 1, "r_precision_artist": 1, "playlist_ndcg": 1}),
        # One hit at place 2 of 3; item 4 is by the artist of item 3, who counts once: item 3 hits
        (
            [4, 3, 9],
            [3, 5, 8],
            {"r_precision": 1 / 3, "r_precision_artist": (1 + 0.25) / 3, "clicks": 0},
        ),
        # Two tracks of one artist of G earn one credit; an unknown artist earns none
        ([2, 4, 6, 9], [1, 5, 8, 10], {"r_precision": 0, "r_precision_artist": 0.25 / 4}),
        # The hit stands behind the first |G| places: NDCG and clicks count it, R-precision does not
        (
            [*range(20, 30), 1],
            [1, 3],
            {"r_precision": 0, "playlist_ndcg": 1 / math.log2(12) / IDEAL_2, "clicks": 1},
        ),
        # A repeat takes a place of the first |G|; for NDCG the later ones move up
        (
            [9, 9, 9, 1, 3],
            [1, 3, 5],
            {
                "r_precision": 0,
                "playlist_ndcg": (1 / math.log2(3) + 1 / math.log2(4)) / IDEAL_3,
                "clicks": 0,
            },
        ),
        # A hit that is repeated counts once
        ([1, 1, 9], [1, 3, 5], {"r_precision": 1 / 3, "playlist_ndcg": 1 / IDEAL_3}),
        # Nothing hits, and nothing was answered: 51 clicks
        ([7, 9], [1], dict.fromkeys(METRICS, 0) | {"clicks": 51}),
        ([], [1], dict.fromkeys(METRICS, 0) | {"clicks": 51}),
        # Cut to 500 before repeats are taken out: the hit at place 501 is gone
        ([9] * 500 + [1], [1], {"playlist_ndcg": 0, "clicks": 51}),
        # The last page
        ([*range(100, 599), 1], [1], {"clicks": 49, "playlist_ndcg": 1 / math.log2(501)}),
        # The rules' page compares with the hits, so that one hit in front is perfect
        ([1, 9], [1, 3, 5], {"playlist_ndcg_rules": 1, "playlist_ndcg": 1 / IDEAL_3}),
        ([9, 8, 1], [1, 3, 5], {"playlist_ndcg_rules": 1 / math.log2(3)}),
    ],
)
def test_by_hand(answer: list[int], withheld: list[int], expected: dict[str, float]) -> None:
    measured = values(answer, withheld)
    assert set(measured) == set(METRICS)
    assert {name: measured[name] for name in expected} == pytest.approx(expected)


def plain(answer: list[int], withheld: set[int]) -> dict[str, float]:
    """The program as its author describes it, one playlist at a time."""
    cut = answer[:500]
    front = cut[: len(withheld)]
    hits = len(withheld & set(front))
    credits = {ARTIST[item] for item in front if item not in withheld}
    credits &= {ARTIST[item] for item in withheld}
    once = list(dict.fromkeys(cut))
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(once, 1) if item in withheld)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(500, len(withheld)) + 1))
    first = [place for place, item in enumerate(cut) if item in withheld]
    return {
        "r_precision": hits / len(withheld),
        "r_precision_artist": (hits + 0.25 * len(credits - {0})) / len(withheld),
        "playlist_ndcg": gain / ideal,
        "clicks": first[0] // 10 if first else 51,
    }


def test_agrees_with_a_plain_version() -> None:
    draw = np.random.default_rng(3)
    answers = draw.integers(1, 700, (200, 520))
    sets = [set(draw.integers(1, 700, draw.integers(1, 90)).tolist()) for _ in answers]
    indptr = np.concatenate([[0], np.cumsum([len(withheld) for withheld in sets])])
    targets = np.concatenate([sorted(withheld) for withheld in sets])
    measured = from_lists(answers, indptr, targets, ARTIST)
    for row, withheld in enumerate(sets):
        expected: dict[str, Any] = plain(answers[row].tolist(), withheld)
        assert {name: measured[name][row] for name in expected} == pytest.approx(expected)


def test_a_playlist_of_which_nothing_was_withheld_is_refused() -> None:
    with pytest.raises(DataError, match="found 1 playlists without one"):
        from_lists(np.array([[1], [2]]), np.array([0, 1, 1]), np.array([1]), ARTIST)


def test_without_artists_there_is_no_credit() -> None:
    assert "r_precision_artist" not in from_lists(np.array([[1]]), np.array([0, 1]), np.array([1]))


def test_borda_counts_places_and_shares_them_among_equals() -> None:
    rows = {"a": (0.3, 0.3, 5.0), "b": (0.2, 0.3, 1.0), "c": (0.1, 0.1, 1.0), "d": (0.0, 0.0, 51.0)}
    points = borda(
        {name: dict(zip(playlists.OFFICIAL, row, strict=True)) for name, row in rows.items()}
    )
    # a: 4, 3.5 and 2 (second to last in clicks); b: 3, 3.5 and 3.5; c: 2, 2 and 3.5; d: 1 each
    assert points == {"a": 9.5, "b": 10.0, "c": 7.5, "d": 3.0}
